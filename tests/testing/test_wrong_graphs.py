"""A graph that is kept from one call to the next is named, with the place that holds it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from kdcore.component import Kind
from kdcore.testing.kept import detach, graphs
from tests.testing import test_wrong_losses, test_wrong_parts
from tests.testing.test_wrong_losses import registered
from tests.testing.wrong import graphs as wrong

LOSSES = [
    (wrong.GraphInABuffer, r"in training mode its buffer total still holds the graph .*: self\.total = .*detach\(\)"),
    (wrong.FeaturesInAList, r"in training mode its attribute latest\['student'\]\[0\] still holds the graph"),
]


@pytest.mark.parametrize(("factory", "message"), LOSSES, ids=[each.__name__ for each, _ in LOSSES])
def test_a_loss_that_keeps_a_graph(factory: Any, message: str) -> None:
    found = test_wrong_losses.failures(registered(factory))
    assert list(found) == ["graphs_released"], found
    assert re.search(message, found["graphs_released"]), found


def test_an_adapter_that_keeps_a_graph() -> None:
    found = test_wrong_parts.failures(Kind.ADAPTER, wrong.AdapterKeepsItsOutput)
    assert list(found) == ["graphs_released"], found
    assert "its attribute output still holds the graph" in found["graphs_released"]


def test_numbers_may_be_kept() -> None:
    assert test_wrong_losses.failures(registered(wrong.NumbersInABuffer)) == {}


def test_graphs_are_cut_wherever_they_can_be_replaced() -> None:
    loss = wrong.FeaturesInAList()
    loss.register_buffer("total", torch.ones(1, requires_grad=True) * 2)
    loss.latest["student"].append(torch.ones(1, requires_grad=True) * 2)
    assert [each.name for each in graphs(loss)] == ["total", "latest['student'][0]"]
    detach(loss)
    assert list(graphs(loss)) == []
    assert torch.equal(torch.cat([*loss.buffers(), *loss.latest["student"]]), torch.full((2,), 2.0))
