"""StepCounts: parts of a step add up to the whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdcore import StepCounts, build_objective
from kdcore.errors import WiringError

from .toys import config, make_batch, objective, one_stage, registry


def uneven() -> dict[str, torch.Tensor]:
    return {**make_batch(6), "target": torch.tensor([0, -100, -100, 1, 2, 0])}


def parts(batch: dict[str, torch.Tensor], *sizes: int) -> list[dict[str, torch.Tensor]]:
    split = {key: value.split(list(sizes)) for key, value in batch.items()}
    return [{key: value[index] for key, value in split.items()} for index in range(len(sizes))]


LOSSES = "{t: {type: token_ce, weight: 2}, l: {type: mse, inputs: {input: student, target: 'batch:goal'}}}"


def test_parts_of_any_size_give_the_gradient_of_the_whole() -> None:
    batch = {**uneven(), "goal": torch.ones(6, 3)}
    model = nn.Linear(5, 3)
    built = objective(one_stage(LOSSES), {"student": model}, batch)
    built(batch).total.backward()
    whole, model.weight.grad = model.weight.grad, None
    counts = StepCounts.of(built, parts(batch, 1, 3, 2))
    totals = []
    for part in parts(batch, 1, 3, 2):
        out = built(part, counts.share(part))
        out.total.backward()
        totals.append(out.total.detach())
    torch.testing.assert_close(model.weight.grad, whole)
    torch.testing.assert_close(sum(totals), built(batch).total.detach())


def test_processes_that_average_gradients_give_the_gradient_of_the_whole() -> None:
    batch = {**uneven(), "goal": torch.ones(6, 3)}
    model = nn.Linear(5, 3)
    built = objective(one_stage(LOSSES), {"student": model}, batch)
    expected = built(batch).total.detach()
    mine, theirs = parts(batch, 2, 4)
    other = StepCounts.of(built, [theirs])
    sums = torch.tensor([1, other.rows, *other.counts.values()])
    counts = StepCounts.of(built, [mine], across=lambda tensor: tensor + sums)
    both = [built(part, counts.share(part)).total.detach() for part in (mine, theirs)]
    torch.testing.assert_close(sum(both) / 2, expected)


def test_a_batch_that_stands_alone_is_the_whole_step() -> None:
    batch = uneven()
    built = objective(one_stage("{t: token_ce}"), {"student": nn.Linear(5, 3)}, batch)
    torch.testing.assert_close(built(batch, StepCounts.of(built, [batch]).share(batch)).total, built(batch).total)


def test_a_step_in_which_nothing_counts_is_zero() -> None:
    batch = {**make_batch(4), "target": torch.full((4,), -100)}
    built = objective(one_stage("{t: token_ce}"), {"student": nn.Linear(5, 3)}, make_batch(4))
    counts = StepCounts.of(built, parts(batch, 2, 2))
    assert [float(built(part, counts.share(part)).total.detach()) for part in parts(batch, 2, 2)] == [0.0, 0.0]


def test_a_term_that_cannot_tell_its_count_is_refused_in_parts() -> None:
    class Blind(nn.Module):
        def forward(self, input: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return nn.functional.cross_entropy(input, target, reduction="sum"), (target != -100).sum()

    plugins = registry()
    plugins.register("loss", "blind", Blind)
    checked = config(
        "models: {student: {}}\n" + one_stage("{b: {type: blind, inputs: {input: student, target: 'batch:target'}}}"),
        plugins,
    )
    batch = uneven()
    built = build_objective(checked, models={"student": nn.Linear(5, 3)}, example_batch=batch)
    alone = StepCounts.of(built, [batch])
    assert built(batch, alone.share(batch)).total.isfinite()
    halves = parts(batch, 3, 3)
    counts = StepCounts.of(built, halves)
    with pytest.raises(WiringError, match=r"term 'b' returns \(sum, count\) but cannot tell(.|\n)*bind its labels"):
        built(halves[0], counts.share(halves[0]))


def test_a_batch_without_tensors_has_no_rows() -> None:
    built = objective(one_stage("{t: token_ce}"), {"student": nn.Linear(5, 3)}, uneven())
    with pytest.raises(WiringError, match=r"'names' holds no tensor(.|\n)*collate"):
        StepCounts.of(built, [{"names": ["a", "b"]}])


def test_what_is_no_objective_is_refused() -> None:
    with pytest.raises(WiringError, match=r"was given a Linear, which cannot count(.|\n)*give it the objective itself"):
        StepCounts.of(nn.Linear(2, 2), [{"x": torch.zeros(2)}])
