from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from kdcore import create
from kdcore.component import CheckContext
from kdcore.plugins import registry
from kdcore.search.condition import Condition, Test
from kdcore.search.domain import Choices, Range
from kdcore.search.objectives import Objective
from kdcore.search.space import Parameter, Space, point_key

SPACE = Space(
    [
        Parameter("width", Choices([4, 8, 16])),
        Parameter("lr", Choices([0.1, 0.01])),
        Parameter("momentum", Choices([0.0, 0.9]), Condition({"lr": Test(values=(0.1,))})),
    ],
    [Condition({"lr": Test(values=(0.1,)), "width": Test(values=(16,)), "momentum": Test(values=(0.9,))})],
)
ENDLESS = Space([Parameter("lr", Range(0.001, 1.0, log=True)), Parameter("width", Choices([4, 8]))])
OBJECTIVES = [Objective("accuracy", True)]


def prepared(name, space=SPACE, **params):
    searcher = create("searcher", name, **params)
    searcher.setup(space, OBJECTIVES)
    return searcher


def all_of(searcher):
    return list(iter(searcher.suggest, None))


def test_the_grid_is_the_space_in_order():
    searcher = prepared("grid")
    assert all_of(searcher) == list(SPACE.enumerate())
    assert searcher.suggest() is None


def test_the_grid_takes_no_notice_of_results():
    searcher = prepared("grid")
    points = []
    while (point := searcher.suggest()) is not None:
        points.append(point)
        searcher.feedback(point, None if len(points) % 2 else {"accuracy": 1.0})
    assert points == list(SPACE.enumerate())


@pytest.mark.parametrize("taken", [0, 3, 8])
def test_the_grid_goes_on_where_it_was(taken):
    first, other = prepared("grid"), prepared("grid")
    for _ in range(taken):
        first.suggest()
    other.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert all_of(other) == all_of(first) == list(SPACE.enumerate())[taken:]


def test_an_infinite_grid_is_refused():
    check = registry().find("searcher", "grid").component.check
    (complaint,) = check({}, CheckContext(space=ENDLESS))
    assert (
        "a grid needs a finite space, but lr can be any number of a range: give the range a step" in complaint.message
    )
    assert list(check({}, CheckContext(space=SPACE))) == []
    with pytest.raises(ValueError, match="the search space is infinite: lr"):
        prepared("grid", ENDLESS)


def test_random_points_exhaust_the_space_without_a_repeat():
    found = all_of(prepared("random", seed=1))
    assert len(found) == SPACE.size() == 8
    assert {point_key(point) for point in found} == {point_key(point) for point in SPACE.enumerate()}
    assert found != list(SPACE.enumerate())


def test_the_seed_decides():
    assert all_of(prepared("random", seed=5)) == all_of(prepared("random", seed=5))
    assert all_of(prepared("random", seed=5)) != all_of(prepared("random", seed=6))
    assert all_of(prepared("random")) == all_of(prepared("random", seed=0))


def test_the_generator_is_the_searchers_own():
    random.seed(0)
    before = random.getstate()
    found = all_of(prepared("random", seed=5))
    assert random.getstate() == before
    random.seed(1)
    assert all_of(prepared("random", seed=5)) == found


def test_what_was_fed_back_is_not_drawn_again():
    searcher = prepared("random")
    known = list(SPACE.enumerate())[:5]
    for point in known:
        searcher.feedback(point, None)
    assert {point_key(point) for point in all_of(searcher)} == {point_key(p) for p in list(SPACE.enumerate())[5:]}


@pytest.mark.parametrize("space", [SPACE, ENDLESS])
def test_random_goes_on_where_it_was(space):
    first, other = prepared("random", space, seed=2), prepared("random", space, seed=9)
    for _ in range(4):
        first.suggest()
    other.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [other.suggest() for _ in range(4)] == [first.suggest() for _ in range(4)]


def test_first_points_are_spread_over_the_space():
    drawn = Counter(point_key(prepared("random", seed=seed).suggest()) for seed in range(600))
    assert len(drawn) == 8
    # Parents first: lr is even, and then what hangs on it.
    with_large_rate = sum(count for key, count in drawn.items() if '"lr":0.1' in key)
    assert 0.38 < with_large_rate / 600 < 0.54
