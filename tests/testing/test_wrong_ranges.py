"""What a schema allows and the component cannot do is said before anybody writes it into a config."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from tests.testing.test_wrong_losses import failures, registered
from tests.testing.wrong import ranges

WRONG = [
    (ranges.DividesByIt, "bounds_work", r"allows divisor: 0, but called with that it returned inf: not finite"),
    (ranges.OneModeOnly, "bounds_work", r"allows mode: 'median', but called with that it raised KeyError: 'median'"),
    (
        ranges.TooLargeForAnInteger,
        "bounds_work",
        r"allows count: 10+, but called with that it raised ValueError: Overf",
    ),
    (ranges.WantsMoreThanItSays, "bounds_accepted", r"allows width: 10\.0+1, but the constructor raised ValueError"),
    (ranges.HasAMaximum, "bounds_accepted", r"allows power: 1000000, but the constructor raised ValueError: power is"),
    (ranges.TrueForOne, "constructor_agrees", r"default of squared is 1 in the schema and True in the constructor"),
    (
        ranges.FloatForAnInteger,
        "constructor_agrees",
        r"default of layer is 2 in the schema and 2\.0 in the constructor",
    ),
]


@pytest.mark.parametrize(("factory", "check", "message"), WRONG, ids=[each.__name__ for each, _, _ in WRONG])
def test_each_is_caught_by_its_check_alone(factory: Any, check: str, message: str) -> None:
    (name,) = inspect.signature(factory).parameters
    properties = {name: {**factory.schema, "description": "a test"}}
    found = failures(
        registered(factory, schema={"type": "object", "additionalProperties": False, "properties": properties})
    )
    assert list(found) == [check], found
    assert re.search(message, found[check]), found[check]
