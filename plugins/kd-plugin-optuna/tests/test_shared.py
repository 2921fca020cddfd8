from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdcore import create
from kdcore.errors import KdcoreError
from kdcore.search.condition import Condition, Test
from kdcore.search.domain import Choices, Range
from kdcore.search.objectives import Constraint, Objective
from kdcore.search.space import Parameter, Space, point_key

SPACE = Space(
    [
        Parameter("a", Choices([1, 2, 4, 8])),
        Parameter("b", Range(0.0, 1.0, 0.5)),
        Parameter("c", Choices(["x", None])),
    ],
    [Condition({"a": Test(values=(1,)), "c": Test(values=("x",))})],
)
OBJECTIVES = [Objective("quality", True), Objective("cost", False)]


def storage_in(folder, kind):
    return str(folder / "search.journal") if kind == "file" else f"sqlite:///{folder / 'search.db'}"


def joined(storage, name="tpe", space=SPACE, objectives=OBJECTIVES, constraints=(), seed=0):
    searcher = create("searcher", name, seed=seed)
    searcher.setup(space, objectives, constraints=constraints, storage=storage)
    return searcher


def judged(point):
    return {"quality": point["a"] + point["b"], "cost": float(point["a"]), "size": float(point["a"])}


both_kinds = pytest.mark.parametrize("kind", ["file", "database"])


@both_kinds
def test_two_searchers_share_what_they_know(tmp_path, kind):
    storage = storage_in(tmp_path, kind)
    first, second = joined(storage), joined(storage, "nsga2")
    seen = []
    while True:
        points = [searcher.suggest() for searcher in (first, second)]
        for searcher, point in zip((first, second), points, strict=True):
            if point is not None:
                seen.append(point_key(point))
                searcher.feedback(point, judged(point))
        if points == [None, None]:
            break
    assert sorted(seen) == sorted(point_key(point) for point in SPACE.enumerate())
    assert {point_key(entry.point): entry.values for entry in first.history} == {
        point_key(entry.point): entry.values for entry in second.history
    }


@both_kinds
def test_who_is_later_takes_another_point(tmp_path, kind):
    """The same seed proposes the same point; only one of the two gets it."""
    storage = storage_in(tmp_path, kind)
    first, second = joined(storage, seed=3), joined(storage, seed=3)
    one = first.suggest()
    pull = second.shared.pull

    def look_too_early(history):
        second.shared.pull = pull

    second.shared.pull = look_too_early
    two = second.suggest()
    assert one is not None
    assert point_key(one) != point_key(two)
    assert second.history.find(one).state == "open"


@both_kinds
def test_failures_and_constraints_are_shared(tmp_path, kind):
    storage = storage_in(tmp_path, kind)
    constraints = [Constraint.parse("size <= 3")]
    first, second = joined(storage, constraints=constraints), joined(storage, constraints=constraints)
    failed, done = first.suggest(), first.suggest()
    first.feedback(failed, None)
    first.feedback(done, judged(done))
    told = list(SPACE.enumerate())[-1]
    first.feedback(told, judged(told))  # never suggested
    second.suggest()
    assert second.history.find(failed).state == "failed"
    assert second.history.find(done).violations == {"size <= 3": done["a"] - 3.0}
    assert second.history.find(told).values == (told["a"] + told["b"], float(told["a"]))


@both_kinds
def test_going_on_with_a_state_finishes_what_was_begun(tmp_path, kind):
    storage = storage_in(tmp_path, kind)
    first = joined(storage)
    begun = first.suggest()
    state = json.loads(json.dumps(first.state_dict()))
    again = joined(storage)
    again.load_state_dict(state)
    again.feedback(begun, judged(begun))
    other = joined(storage)
    other.suggest()
    assert other.history.find(begun).values == (begun["a"] + begun["b"], float(begun["a"]))


@both_kinds
def test_a_storage_of_another_search_says_what_differs(tmp_path, kind):
    storage = storage_in(tmp_path, kind)
    joined(storage)
    wider = Space([Parameter("a", Choices([1, 2, 4, 16])), Parameter("d", Choices([1])), *list(SPACE)[1:]])
    with pytest.raises(KdcoreError) as caught:
        joined(storage, space=wider, constraints=[Constraint.parse("size <= 3")])
    text = str(caught.value)
    assert "holds another search: d is in this space only; a is " in text
    assert '{"choices": [1, 2, 4, 16]} here and {"choices": [1, 2, 4, 8]} there' in text
    assert "other combinations are excluded" in text
    assert 'its constraints are [], here they are ["size <= 3"]' in text
    with pytest.raises(KdcoreError, match=r'its objectives are \["maximize quality", "minimize cost"\]'):
        joined(storage, objectives=[Objective("quality", False), OBJECTIVES[1]])


@pytest.mark.parametrize(
    ("storage", "match"),
    [
        ("sqlite:////no/such/folder/search.db", r"cannot be used: .*unable to open database file"),
        ("postgresql+nodriver://host/db", "cannot be used: .*nodriver"),
        ("/proc/nothing/search.journal", "cannot be used: "),
    ],
)
def test_storages_that_cannot_be_used(storage, match):
    with pytest.raises(KdcoreError, match=match):
        joined(storage)


def test_a_file_that_is_no_journal(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("not a journal\nat all\n", encoding="utf-8")
    with pytest.raises(KdcoreError, match=r"notes.txt' cannot be used: .*\n *this file is not a journal of Optuna"):
        joined(str(file))
    assert file.read_text(encoding="utf-8") == "not a journal\nat all\n"


def test_a_pickle_is_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path(tmp_path / "sprung").touch, ())

    import pickle

    file = tmp_path / "search.journal"
    file.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(KdcoreError, match="cannot be used"):
        joined(str(file))
    assert not (tmp_path / "sprung").exists()


WORKER = """
import sys
sys.path.insert(0, {folder!r})
from test_shared import joined, judged
searcher = joined(sys.argv[1])
while (point := searcher.suggest()) is not None:
    searcher.feedback(point, judged(point))
    print(__import__("json").dumps(point), flush=True)
"""


@pytest.mark.slow
@both_kinds
def test_two_processes_never_train_one_point_twice(tmp_path, kind):
    storage = storage_in(tmp_path, kind)
    joined(storage)
    code = WORKER.format(folder=str(Path(__file__).parent))
    started = [
        subprocess.Popen([sys.executable, "-c", code, storage], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    found = [json.loads(line) for each in started for line in each.communicate()[0].splitlines()]
    assert all(each.returncode == 0 for each in started)
    assert sorted(map(point_key, found)) == sorted(map(point_key, SPACE.enumerate()))
