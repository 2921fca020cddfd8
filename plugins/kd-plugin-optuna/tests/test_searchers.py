from __future__ import annotations

import json
import logging
import math
import random
import warnings

import numpy as np
import pytest
import torch

from kdcore import create
from kdcore.search.condition import Condition, Test
from kdcore.search.domain import Choices, Range
from kdcore.search.objectives import Constraint, Objective
from kdcore.search.space import Parameter, Space, point_key

NAMES = ["bayesian", "tpe", "nsga2"]
ONE = [Objective("quality", True)]
TWO = [Objective("quality", True), Objective("cost", False)]

GRID = Space(
    [Parameter("a", Choices([1, 2, 4, 8])), Parameter("b", Range(0.0, 1.0, 0.25)), Parameter("c", Choices("xy"))]
)
MIXED = Space(
    [
        Parameter("kind", Choices(["sgd", "adam", {"type": "lion"}])),
        Parameter("lr", Range(1e-4, 1.0, log=True)),
        Parameter("momentum", Range(0.0, 0.99), Condition({"kind": Test(values=("sgd",))})),
        Parameter("nesterov", Choices([False, True]), Condition({"momentum": Test(low=0.5)})),
        Parameter("steps", Range(1, 1000, log=True, integer=True)),
        Parameter("width", Range(8, 64, 8, integer=True)),
    ],
    [Condition({"width": Test(low=48), "steps": Test(low=500)})],
)


def quality(point):
    known = {"x": 0.0, "y": 0.5, "sgd": 0.2, "adam": 0.4}
    return sum(known.get(value, 0.0) if isinstance(value, str) else math.tanh(float(value) / 4)
               for value in point.values() if not isinstance(value, dict))  # fmt: skip


def judged(point):
    return {"quality": quality(point), "cost": float(len(point)) + point.get("a", 0), "size": float(point.get("a", 0))}


def prepared(name, space=GRID, objectives=TWO, constraints=(), **params):
    searcher = create("searcher", name, **params)
    searcher.setup(space, objectives, constraints=constraints)
    return searcher


def run(searcher, trials, judge=judged):
    found = []
    for _ in range(trials):
        point = searcher.suggest()
        if point is None:
            break
        found.append(point)
        searcher.feedback(point, judge(point))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_finite_space_is_exhausted_without_a_repeat(name):
    found = run(prepared(name, Space(list(GRID)[:2])), 50)
    assert len(found) == 20
    assert len({point_key(point) for point in found}) == 20


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("objectives", [ONE, TWO])
def test_points_of_any_space_are_valid_and_new(name, objectives):
    trials = 9 if name == "bayesian" else 30
    found = run(prepared(name, MIXED, objectives), trials)
    assert len({point_key(point) for point in found}) == trials
    for point in found:
        MIXED.check(point)
    # As JSON writes them, they are the same points.
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_is_the_same_search(name):
    first = run(prepared(name, seed=4), 14)
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    assert run(prepared(name, seed=4), 14) == first
    assert run(prepared(name, seed=5), 14) != first


@pytest.mark.parametrize("name", NAMES)
def test_no_global_generator_is_read_or_moved(name):
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    run(prepared(name), 12)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("space", [GRID, MIXED])
def test_a_state_is_json_and_going_on_is_exact(name, space):
    first = prepared(name, space, seed=3, **({"population": 4} if name == "nsga2" else {}))
    brief = name == "bayesian" and space is MIXED  # a second for each suggestion beyond the start
    run(first, 6 if brief else 13)
    pending = [first.suggest(), first.suggest()]
    other = prepared(name, space, seed=3, **({"population": 4} if name == "nsga2" else {}))
    other.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    for searcher in (first, other):
        searcher.feedback(pending[1], judged(pending[1]))
    trials = 1 if brief else 8
    assert run(first, trials) == run(other, trials)
    # What was open then is not suggested again.
    assert other.history.find(pending[0]).state == "open"


@pytest.mark.parametrize("name", NAMES)
def test_several_suggestions_may_be_open(name):
    searcher = prepared(name, seed=1)
    found = run(searcher, 10)
    pending = [searcher.suggest() for _ in range(6)]
    keys = {point_key(point) for point in found + pending}
    assert len(keys) == 16
    for point in reversed(pending):
        searcher.feedback(point, judged(point))
    assert searcher.history.num_complete == 16


@pytest.mark.parametrize("name", NAMES)
def test_failures_and_values_that_are_not_finite_are_learnt_from_as_failures(name):
    outcomes = [None, {"quality": math.nan, "cost": 1.0}, {"quality": math.inf, "cost": 1.0}, {"cost": 1.0}]
    searcher = prepared(name, seed=1)
    counter = iter(range(100))
    found = run(searcher, 25, lambda point: outcomes[i % 5] if (i := next(counter)) % 5 < 4 else judged(point))
    assert len({point_key(point) for point in found}) == 25
    assert [entry.state for entry in searcher.history] == (["failed"] * 4 + ["complete"]) * 5


@pytest.mark.parametrize("name", NAMES)
def test_points_from_elsewhere_are_taken_into_account(name):
    searcher = prepared(name)
    points = list(GRID.enumerate())
    for point in points[:-1]:
        searcher.feedback(point, judged(point))
    searcher.feedback(points[0], None)  # known already, and stays as it is
    assert searcher.history.num_complete == len(points) - 1
    assert searcher.suggest() == points[-1]
    assert searcher.suggest() is None


@pytest.mark.parametrize("name", ["bayesian", "tpe"])
def test_results_are_learnt_from(name):
    """Of 343 points the best are few; chance finds one of them in 30 trials in one of twelve searches."""
    space = Space([Parameter(path, Choices([1, 2, 3, 4, 5, 6, 7])) for path in "abc"])

    def judge(point):
        return {"quality": -float(abs(point["a"] - 6) + abs(point["b"] - 2) + abs(point["c"] - 4))}

    best = [
        max(judge(point)["quality"] for point in run(prepared(name, space, ONE, seed=seed), 30, judge))
        for seed in range(2)
    ]
    assert sum(value == 0 for value in best) >= 1, best


CONSTRAINTS = [Constraint.parse("size <= 10"), Constraint.parse("b >= 1")]
SQUARE = Space([Parameter(path, Range(0, 15, integer=True)) for path in "ab"])


def squared(point):
    """The best points by far break a constraint."""
    first, second = float(point["a"]), float(point["b"])
    return {"quality": first + second / 4, "cost": second, "size": first, "b": second}


@pytest.mark.parametrize("objectives", [ONE, TWO])
def test_a_gaussian_process_searches_within_constraints(objectives):
    """Of 256 points two are as good; chance finds one of them in 22 trials in one of six searches."""
    found = run(prepared("bayesian", SQUARE, objectives, CONSTRAINTS), 22, squared)
    allowed = [squared(point)["quality"] for point in found if point["a"] <= 10 and point["b"] >= 1]
    assert max(allowed) >= 13.5


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_constraints_are_handed_to_optuna(name):
    from kd_plugin_optuna.replay import replayed

    more = {"population": 6} if name == "nsga2" else {}
    searcher = prepared(name, SQUARE, ONE, CONSTRAINTS, **more)
    found = run(searcher, 24, squared)
    study = replayed(searcher.history, searcher.encoding, ONE, searcher.sampler(0))
    assert [trial.constraints for trial in study.trials] == [
        {"size <= 10": point["a"] - 10.0, "b >= 1": 1.0 - point["b"]} for point in found
    ]
    assert run(prepared(name, SQUARE, ONE, **more), 24, squared) != found


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_printed(name, capsys, caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.INFO):
        warnings.simplefilter("error")
        run(prepared(name, MIXED), 8 if name == "bayesian" else 14)
    assert capsys.readouterr() == ("", "")
    assert caplog.records == []


@pytest.mark.parametrize("name", NAMES)
def test_a_single_point_is_suggested_once(name):
    assert run(prepared(name, Space([Parameter("a", Choices([3]))])), 5) == [{"a": 3}]


def test_numbers_have_an_order_and_other_choices_have_none():
    from kd_plugin_optuna.encoding import Encoding
    from optuna.distributions import CategoricalDistribution, IntDistribution

    encoding = Encoding(Space([Parameter("n", Choices([8, 2, 4])), Parameter("t", Choices(["b", "a"]))]), whole=True)
    assert isinstance(encoding.codes["n"].distribution, IntDistribution)
    assert [encoding.codes["n"].read(code) for code in range(3)] == [2, 4, 8]
    assert isinstance(encoding.codes["t"].distribution, CategoricalDistribution)
    assert [encoding.codes["t"].read(code) for code in range(2)] == ["b", "a"]


def test_every_point_is_written_and_read_back():
    from kd_plugin_optuna.encoding import Encoding

    generator = random.Random(0)
    for whole in (True, False):
        encoding = Encoding(MIXED, whole=whole)
        for point in (MIXED.sample(generator) for _ in range(200)):
            codes = encoding.write(point)
            assert (codes.keys() == encoding.codes.keys()) or not whole
            if whole:
                assert encoding.read(codes) == point
