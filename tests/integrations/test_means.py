"""TermMeans: weights, batches that count nothing, processes."""

from __future__ import annotations

import pytest
import torch

from kdcore.integrations.means import TermMeans


def test_each_term_is_weighed_by_what_it_counts() -> None:
    means = TermMeans()
    means.add({"ce": torch.tensor(1.0), "hint": torch.tensor(1.0)}, 2, {"ce": torch.tensor(30)})
    means.add({"ce": torch.tensor(4.0), "hint": torch.tensor(4.0)}, 1, {"ce": 10.0})
    assert means.compute() == pytest.approx({"ce": (30 + 40) / 40, "hint": 2.0})


def test_a_batch_that_counts_nothing_changes_nothing() -> None:
    means = TermMeans()
    means.add({"ce": torch.tensor(torch.nan)}, 2, {"ce": torch.tensor(0)})
    assert means.compute() == {"ce": 0.0}
    means.add({"ce": torch.tensor(3.0)}, 2, {"ce": torch.tensor(5)})
    assert means.compute() == {"ce": 3.0}


def test_many_batches_are_summed_as_they_come() -> None:
    means = TermMeans()
    for value in range(1000):
        means.add({"l": torch.tensor(float(value))}, 1, {})
        assert len(means._pending) < 256
    assert means.compute() == {"l": pytest.approx(499.5)}


def test_processes_add_up() -> None:
    mine = TermMeans()
    mine.add({"l": torch.tensor(1.0)}, 3, {})
    theirs = torch.tensor([8.0, 1.0], dtype=torch.float64)  # one sample with 8
    assert mine.compute(lambda sums: sums + theirs) == {"l": pytest.approx((3 + 8) / 4)}
    assert TermMeans().compute(lambda sums: pytest.fail("nothing to add up")) == {}
