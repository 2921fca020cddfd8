"""Spaces: what is in them, in which order, and how many points there are."""

from __future__ import annotations

import itertools
import json
import pickle
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.errors import ConfigError, KdcoreError
from kdcore.search.condition import Condition, Test
from kdcore.search.domain import Choices, Range
from kdcore.search.space import Parameter, Space, point_key
from kdcore.search.unseen import draw_unseen, generator_state, restored_generator


def choices(path: str, *values: Any, **when: Any) -> Parameter:
    return Parameter(path, Choices(values), condition(**when))


def condition(**tests: Any) -> Condition:
    return Condition({path: test if isinstance(test, Test) else Test(values=(test,)) for path, test in tests.items()})


def bounded(examples: int) -> settings:
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None)


# What the grid searcher of Neural Compressor yields, before it starts over.
GRIDS = {
    "two": (
        {"hidden_size": [120, 240], "intermediate_size": [256, 512]},
        [(120, 256), (120, 512), (240, 256), (240, 512)],
    ),
    "unsorted keys": ({"z": [3, 2], "a": ["y", "x"]}, [("y", 3), ("y", 2), ("x", 3), ("x", 2)]),
    "values that do not compare": ({"a": [None, "x", 3.5]}, [(None,), ("x",), (3.5,)]),
    "one": ({"a": [7]}, [(7,)]),
    "mobilebert": (
        {
            "hidden_size": [128, 246, 384, 512],
            "intra_bottleneck_size": [64, 96, 128, 160],
            "num_attention_heads": [1, 2, 4, 8],
            "intermediate_size": [384, 512, 640],
            "num_feedforward_networks": [2, 4, 6],
        },
        [(128, 384, 64, 1, 2), (128, 384, 64, 1, 4), (128, 384, 64, 1, 6), (128, 384, 64, 2, 2)],
    ),
}


@pytest.mark.parametrize("name", GRIDS)
def test_the_order_is_that_of_the_original_grid(name: str) -> None:
    data, expected = GRIDS[name]
    space = Space([choices(path, *values) for path, values in data.items()])
    found = [tuple(point.values()) for point in space.enumerate()]
    assert found[: len(expected)] == expected
    assert all(list(point) == sorted(data) for point in space.enumerate())
    assert len(found) == space.size() == len(set(map(repr, found)))


def test_equal_choices_count_once() -> None:
    assert Choices([1, 2, 1, 1.0, True, "1", [1], [1.0]]).values == (1, 2, True, "1", [1])


def test_whole_values_may_be_choices() -> None:
    sgd, adam = {"type": "SGD", "params": {"lr": 0.1}}, {"params": {"lr": 0.1}, "type": "AdamW"}
    space = Space([choices("optimizer", sgd, adam, None)])
    assert [point["optimizer"] for point in space.enumerate()] == [sgd, adam, None]
    assert {"optimizer": {"params": {"lr": 0.1}, "type": "SGD"}} in space
    assert {"optimizer": {"type": "SGD"}} not in space


def test_ranges_of_whole_numbers_and_steps() -> None:
    assert list(Range(2, 9, 3, integer=True)) == [2, 5, 8]
    assert list(Range(3, 5, integer=True)) == [3, 4, 5]
    assert all(isinstance(value, int) for value in Range(3, 5, integer=True))
    # Tenths are tenths: no 0.30000000000000004.
    assert list(Range(0.1, 0.7, 0.1)) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert Range(0.0, 1.0).size is None
    assert list(Range(0.5, 0.5)) == [0.5]
    assert 0.3 in Range(0.1, 0.7, 0.1)
    assert 0.35 not in Range(0.1, 0.7, 0.1)
    assert 4 not in Range(2, 9, 3, integer=True)
    assert 5.0 in Range(2, 9, 3, integer=True)
    assert True not in Range(0, 9, integer=True)


@pytest.mark.parametrize(
    ("numbers", "match"),
    [
        ({"low": 2, "high": 1}, "the range is empty: low is 2 and high is 1"),
        ({"low": 0, "high": 1, "step": 0}, "step must be above 0, found 0"),
        ({"low": 0.0, "high": 1.0, "log": True}, "a logarithmic range needs low above 0, found 0.0"),
        ({"low": 1.0, "high": 2.0, "log": True, "step": 0.5}, "a range cannot have both step and log"),
        ({"low": 1.0, "high": float("inf")}, "a range needs finite numbers, found 1.0, inf"),
        ({"low": 1.5, "high": 3, "integer": True}, "a range of whole numbers needs whole numbers, found 1.5, 3"),
    ],
)
def test_impossible_ranges(numbers: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Range(**numbers)


def test_logarithmic_ranges_give_each_factor_the_same_chance() -> None:
    generator = random.Random(0)
    for domain in (Range(1.0, 1000.0, log=True), Range(1, 1000, log=True, integer=True)):
        drawn = [domain.sample(generator) for _ in range(6000)]
        assert all(value in domain for value in drawn)
        decades = Counter(min(len(str(int(value))), 3) for value in drawn)
        assert all(abs(decades[digits] / 6000 - 1 / 3) < 0.06 for digits in (1, 2, 3)), decades


def test_a_condition_leaves_a_parameter_out() -> None:
    space = Space(
        [
            choices("optimizer", "sgd", "adam"),
            choices("momentum", 0.0, 0.9, optimizer="sgd"),
            choices("nesterov", True, False, momentum=0.9),
        ]
    )
    found = list(space.enumerate())
    assert found == [
        {"optimizer": "adam"},
        {"momentum": 0.0, "optimizer": "sgd"},
        {"momentum": 0.9, "nesterov": True, "optimizer": "sgd"},
        {"momentum": 0.9, "nesterov": False, "optimizer": "sgd"},
    ]
    assert space.size() == 4
    assert {"optimizer": "adam", "momentum": 0.9} not in space


def test_conditions_and_exclusions_may_be_ranges() -> None:
    space = Space(
        [Parameter("lr", Range(0.0, 1.0)), choices("warmup", 1, 2, lr=Test(low=0.5))],
        [condition(lr=Test(high=0.75), warmup=2)],
    )
    assert space.size() is None
    assert {"lr": 0.4} in space
    assert {"lr": 0.5, "warmup": 1} in space
    assert {"lr": 0.75, "warmup": 2} not in space
    generator = random.Random(0)
    assert all(space.sample(generator) in space for _ in range(300))


@pytest.mark.parametrize(
    ("point", "match"),
    [
        ({"hiden": 64, "heads": 1}, r"no parameter 'hiden'\n *did you mean 'hidden'\?"),
        ({"hidden": 64}, "heads must be given, for it is active only if hidden is 64 or 128"),
        ({"hidden": 32, "heads": 1}, "heads must be left out, for it is active only if hidden is 64 or 128"),
        ({"hidden": 64, "heads": 3}, r"heads cannot be 3\n *it is 1, 2, 4"),
        ({"hidden": 64, "heads": 4}, "the point is excluded: hidden is 64 and heads is 4"),
    ],
)
def test_why_a_point_is_not_in_a_space(point: dict[str, Any], match: str) -> None:
    space = Space(
        [choices("hidden", 32, 64, 128), choices("heads", 1, 2, 4, hidden=Test(values=(64, 128)))],
        [condition(hidden=64, heads=4)],
    )
    with pytest.raises(KdcoreError, match=match):
        space.check(point)


@pytest.mark.parametrize(
    ("parameters", "exclude", "match"),
    [
        ([], [], "the search space has no parameters"),
        ([choices("a", 1, b=1)], [], "space.a.when.b: the search space has no parameter 'b'"),
        ([choices("a", 1, b=3), choices("b", 1, 2)], [], r"active only if b is 3, which it never is\n *it is 1, 2"),
        ([choices("a", 1, b=1), choices("b", 1, a=1)], [], "conditions go in a circle: a needs b needs a"),
        ([choices("a", 1, a=1)], [], "conditions go in a circle: a needs a"),
        (
            [choices("a", 1, b=1), choices("b", 1, c=2), choices("c", 1, 2), choices("d", 1, a=1, c=1)],
            [],
            "d is never active: its conditions need c to be 1 and also 2",
        ),
        ([choices("a", 1, 2)], [condition(a=3)], "exclude.0.a: this is excluded where a is 3, which it never is"),
        ([choices("a", 1, 2)], [Condition({})], "an empty exclusion would exclude every point"),
        ([choices("a", 1, 2)], [condition(a=1), condition(a=2)], "the search space is empty: every point is excluded"),
    ],
)
def test_spaces_that_make_no_sense(parameters: list[Parameter], exclude: list[Condition], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Space(parameters, exclude)


def test_counting_does_not_list() -> None:
    million = Range(1, 10**6, integer=True)
    space = Space(
        [Parameter(name, million) for name in "abcdefgh"] + [choices("z", 1, 2, a=Test(low=11))],
        [condition(a=Test(high=10), h=7)],
    )
    assert space.size() == 10**36 * (10 * (10**6 - 1) + (10**6 - 10) * 10**6 * 2)


def test_an_infinite_space_cannot_be_listed() -> None:
    space = Space([choices("a", 1), Parameter("lr", Range(0.1, 1.0))])
    with pytest.raises(ValueError, match="infinite: lr can be any number of a range"):
        space.enumerate()


def test_a_space_that_is_nearly_all_excluded_can_be_sampled() -> None:
    space = Space(
        [Parameter("a", Range(1, 10**6, integer=True)), Parameter("b", Range(0.0, 1.0))],
        [condition(a=Test(low=4)), condition(b=Test(high=0.999999999))],
    )
    generator = random.Random(0)
    drawn = [space.sample(generator) for _ in range(20)]
    assert {point["a"] for point in drawn} == {1, 2, 3}
    assert all(point in space for point in drawn)


def test_a_point_is_the_same_however_it_is_written() -> None:
    assert point_key({"a": 1, "b": [1.0, {"x": 2, "y": None}]}) == point_key(
        {"b": [1, {"y": None, "x": 2.0}], "a": 1.0}
    )
    assert point_key({"a": 1}) != point_key({"a": True})
    assert point_key({"a": 0.1}) == point_key(json.loads(json.dumps({"a": 0.1})))


def test_spaces_say_how_they_differ() -> None:
    one = Space([choices("a", 1, 2), choices("b", 1), choices("c", 1)], [condition(a=1, c=1)])
    other = Space([choices("a", 1, 3), choices("c", 1), choices("d", 1)])
    assert one.differences(json.loads(json.dumps(one.describe()))) == []
    assert one.differences(other.describe()) == [
        "b is in this space only",
        "d is in the other space only",
        'a is {"choices": [1, 2]} here and {"choices": [1, 3]} there',
        "other combinations are excluded",
    ]


def test_a_space_can_be_sent_to_another_process() -> None:
    space = Space([choices("a", 1, 2), choices("b", 1, a=2)])
    assert list(pickle.loads(pickle.dumps(space)).enumerate()) == list(space.enumerate())


def test_unseen_points_are_drawn_until_there_are_none() -> None:
    space = Space([choices("a", *range(30)), choices("b", 1, 2)], [condition(a=3, b=1)])
    generator, seen = random.Random(1), set()
    while (point := draw_unseen(space, seen, generator)) is not None:
        assert point in space
        assert point_key(point) not in seen
        seen.add(point_key(point))
    assert len(seen) == space.size() == 59


def test_a_generator_goes_on_from_plain_data() -> None:
    generator = random.Random(3)
    generator.gauss(0, 1)
    other = restored_generator(json.loads(json.dumps(generator_state(generator))))
    assert [generator.gauss(0, 1) for _ in range(5)] == [other.gauss(0, 1) for _ in range(5)]


# Against the plainest way: all combinations, with None for a parameter that is left out.

VALUES = st.lists(st.integers(0, 3), min_size=1, max_size=4)
TESTS = st.one_of(
    st.lists(st.integers(0, 3), min_size=1, max_size=2).map(lambda values: Test(values=tuple(values))),
    st.tuples(st.integers(0, 3), st.integers(0, 3)).map(lambda ends: Test(low=min(ends), high=max(ends))),
)


@st.composite
def descriptions(draw: st.DrawFn) -> tuple[list[Parameter], list[Condition]]:
    names = draw(st.permutations("abcd"))
    parameters = []
    for position, name in enumerate(names):
        tests = {other: draw(TESTS) for other in names[:position] if draw(st.booleans()) and draw(st.booleans())}
        ends = sorted(draw(st.tuples(st.integers(0, 3), st.integers(0, 3))))
        domain = Choices(draw(VALUES)) if draw(st.booleans()) else Range(ends[0], ends[1], integer=True)
        parameters.append(Parameter(name, domain, Condition(tests)))
    subsets = st.dictionaries(st.sampled_from("abcd"), TESTS, min_size=1, max_size=3).map(Condition)
    return parameters, draw(st.lists(subsets, max_size=3))


def all_points(parameters: list[Parameter], exclude: list[Condition]) -> list[dict[str, Any]]:
    ordered = sorted(parameters, key=lambda each: each.path)
    options = [[None, *each.domain] for each in ordered]
    found = []
    for values in itertools.product(*options):
        point = {each.path: value for each, value in zip(ordered, values, strict=True) if value is not None}
        if all(each.when(point) == (each.path in point) for each in ordered) and not any(no(point) for no in exclude):
            found.append(point)
    return found


@given(descriptions())
@bounded(120)
def test_spaces_are_what_they_say(description: tuple[list[Parameter], list[Condition]]) -> None:
    expected = all_points(*description)
    try:
        space = Space(*description)
    except ConfigError:
        return
    assert list(space.enumerate()) == expected
    assert space.size() == len(expected) > 0
    generator = random.Random(0)
    for point in (space.sample(generator) for _ in range(5)):
        assert point in expected
        assert point in space
