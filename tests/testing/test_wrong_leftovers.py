"""What outlives an instance is caught wherever it lies, and what depends on shapes alone may."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kdcore.component import Kind
from tests.testing import test_wrong_losses, test_wrong_parts
from tests.testing.test_wrong_losses import registered
from tests.testing.wrong import leftovers

LOSSES = [
    (leftovers.InAClosure, r"something outlives the instances, in tests\.testing\.wrong\.leftovers\._MEAN\."),
    (leftovers.OnceForAll, "something outlives the instances, as in a functools.cache"),
    (leftovers.CachedByShape, r"outlives the instances, in .*leftovers\._scale\."),
    (leftovers.InADefault, r"outlives the instances, in InADefault\.reduced\."),
    (leftovers.OnAFunction, r"outlives the instances, in .*leftovers\._scaled\."),
    (leftovers.ById, "with new numbers in the tensors of the batch before .* by its id or address"),
]


@pytest.mark.parametrize(("factory", "message"), LOSSES, ids=[each.__name__ for each, _ in LOSSES])
def test_a_loss_that_leaves_something(factory: Any, message: str) -> None:
    found = test_wrong_losses.failures(registered(factory))
    assert list(found) == ["leaves_nothing"], found
    assert re.search(message, found["leaves_nothing"]), found


PARTS = [
    (Kind.WRAPPER, leftovers.WrapperCounts),
    (Kind.BALANCER, leftovers.BalancerOfFirst),
    (Kind.ADAPTER, leftovers.AdapterOfFirst),
    (Kind.OUTPUT_EXTRACTOR, leftovers.ExtractorOfFirst),
    (Kind.CRITERION, leftovers.CriterionOfFirst),
    (Kind.DATASET, leftovers.DataOfFirst),
]


@pytest.mark.parametrize(("kind", "factory"), PARTS, ids=[part.__name__ for _, part in PARTS])
def test_a_part_that_leaves_something(kind: Kind, factory: Any) -> None:
    found = test_wrong_parts.failures(kind, factory)
    assert list(found) == ["leaves_nothing"], found
    assert "used after other instances on other inputs, a fresh instance came to" in found["leaves_nothing"]


def test_a_cache_of_what_its_arguments_tell_passes() -> None:
    assert test_wrong_losses.failures(registered(leftovers.RightCache)) == {}
