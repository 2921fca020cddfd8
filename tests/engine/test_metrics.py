"""Metrics: exact over uneven batches, several rows per sample, ignored positions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.address import Address
from kdcore.config.config import MetricsConfig
from kdcore.engine.mean import TOTAL, Mean
from kdcore.engine.metrics import Judge, check_judgeable, metric_values
from kdcore.errors import WiringError


def metrics(*kinds: dict[str, object], class_dim: int = -1) -> MetricsConfig:
    chosen = kinds or ({"type": "accuracy"}, {"type": "top_k", "k": 2})
    return MetricsConfig(("student",), chosen, Address("batch", "target"), class_dim, -100)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=90), st.integers(0, 2**16))
def test_accuracy_is_exact_over_uneven_batches(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(sum(sizes), 5, generator=generator)
    target = torch.randint(-1, 5, (sum(sizes),), generator=generator)
    target[target < 0] = -100
    judge = Judge(metrics(), by_class=True)
    for rows, labels in zip(logits.split(sizes), target.split(sizes), strict=True):
        judge.add(rows, labels)
    valid = target != -100
    hit = (logits.argmax(1) == target)[valid]
    top = (logits.topk(2).indices == target[:, None]).any(1)[valid]
    found = judge.compute()
    count = max(int(valid.sum()), 1)
    assert found["accuracy"] == pytest.approx(int(hit.sum()) / count)
    assert found["top_2"] == pytest.approx(int(top.sum()) / count)
    if valid.any():
        accuracy, counts = judge.per_class()
        assert sum(counts) == int(valid.sum())
        for label in range(5):
            here = target[valid] == label
            if here.any():
                assert accuracy[label] == pytest.approx(hit[here].float().mean().item())
            else:
                assert accuracy[label] is None


def test_class_dim_and_sequences() -> None:
    logits = torch.randn(2, 7, 5)
    target = torch.randint(5, (2, 7))
    by_last, by_first = Judge(metrics()), Judge(metrics(class_dim=1))
    by_last.add(logits, target)
    by_first.add(logits.movedim(-1, 1), target)
    assert by_last.compute() == by_first.compute()
    assert by_last.compute()["accuracy"] == pytest.approx((logits.argmax(-1) == target).float().mean().item())


def test_only_the_first_row_of_each_sample_is_judged() -> None:
    output = torch.eye(4).repeat_interleave(4, 0)
    output[1::4] = output[2::4] = output[3::4] = 0
    judge = Judge(metrics({"type": "accuracy"}), rows_per_sample=4)
    judge.add(output, torch.arange(4))
    judge.add(output, torch.arange(4).repeat_interleave(4))
    assert judge.compute() == {"accuracy": 1.0}


def test_means_weigh_batches_and_counts() -> None:
    mean = Mean()
    for size, value in ((3, 1.0), (1, 5.0)):
        terms = {TOTAL: torch.tensor(value), "t": torch.tensor(value), "nan": torch.tensor(float("nan"))}
        mean.add(terms, size, {"t": torch.tensor(2 * size - 1), "nan": 0})
    assert mean.latest()["loss"] == 5.0
    found = mean.compute()
    assert found[TOTAL] == pytest.approx(2.0)
    assert found["t"] == pytest.approx((5 * 1 + 1 * 5) / 6)
    assert found["nan"] == 0.0
    assert metric_values("val", found, {}).keys() == {"val/loss", "val/losses/t", "val/losses/nan"}


def test_nan_losses_show() -> None:
    mean = Mean()
    mean.add({TOTAL: torch.tensor(float("nan"))}, 4)
    assert str(mean.compute()[TOTAL]) == "nan"


def test_what_cannot_be_judged_says_why() -> None:
    target = torch.zeros(4, dtype=torch.int64)
    assert check_judgeable("s", torch.zeros(4, 3), target, metrics(), 3) is None
    assert "no class labels" in str(check_judgeable("s", torch.zeros(4, 3), torch.zeros(4), metrics(), None))
    assert "not one tensor" in str(check_judgeable("s", None, target, metrics(), None))
    assert "[4, 7, 3]" in str(check_judgeable("s", torch.zeros(4, 7, 3), target, metrics(), None))
    with pytest.raises(WiringError, match="3 outputs, but the data set has 10 classes"):
        check_judgeable("s", torch.zeros(4, 3), target, metrics(), 10)


def test_shifted_labels_are_judged_where_the_loss_compares_them() -> None:
    tokens = torch.tensor([[1, 2, 3, 4]])
    foretells = torch.nn.functional.one_hot(torch.tensor([[2, 3, 4, 0]]), 5).float()
    judge = Judge(replace(metrics({"type": "accuracy"}), shift=1))
    judge.add(foretells, tokens)
    assert judge.compute() == {"accuracy": 1.0}
