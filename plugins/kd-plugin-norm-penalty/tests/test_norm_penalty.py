"""`norm_penalty` against the definition, the value of an earlier system, and at its edges."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch
from kd_plugin_norm_penalty.loss import NormPenaltyLoss
from torch import Tensor, nn

from kdcore import build_objective
from kdcore.errors import WiringError

textbook = runpy.run_path(str(Path(__file__).with_name("textbook.py")))["norm_penalty"]
GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())


def tensor(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def gradient(value: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(value, leaf)[0]


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4, 5), (1, 7)])
def test_value_and_gradient_follow_the_definition(shape: tuple[int, ...], p: float) -> None:
    x = tensor(*shape)
    loss, expected = NormPenaltyLoss(p)(x), textbook(x, p)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, x), gradient(expected, x))


def test_golden() -> None:
    x = torch.tensor(GOLDEN["input"], dtype=torch.float64, requires_grad=True)
    loss = NormPenaltyLoss()(x)
    assert loss.item() == pytest.approx(GOLDEN["value"], rel=1e-12)
    torch.testing.assert_close(gradient(loss, x), torch.tensor(GOLDEN["gradient"], dtype=torch.float64))


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_zeros_are_finite(p: float) -> None:
    x = torch.zeros(1, 3, requires_grad=True)
    loss = NormPenaltyLoss(p)(x)
    assert loss.item() == 0
    assert not gradient(loss, x).any()
    some = torch.tensor([0.0, 2.0, 0.0], requires_grad=True)
    loss = NormPenaltyLoss(p)(some)
    assert loss.item() == pytest.approx(2)
    torch.testing.assert_close(gradient(loss, some), torch.tensor([0.0, 1.0, 0.0]))


def test_integers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"input has dtype torch.int64; a norm to learn from needs floating-point"):
        NormPenaltyLoss()(torch.arange(3))


CONFIG = """
version: 1
models: {student: {}}
stages:
  - name: sparse
    train: [student]
    losses:
      penalty: {type: norm_penalty, weight: 0.5, inputs: {input: "student:0"}}
"""


def test_in_an_objective() -> None:
    models = {"student": nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))}
    batch = {"input": torch.randn(5, 4)}
    out = build_objective(CONFIG, models=models, example_batch=batch)(batch)
    torch.testing.assert_close(out.total, 0.5 * models["student"][0](batch["input"]).abs().sum())
    out.total.backward()
    assert models["student"][0].weight.grad is not None
    assert models["student"][1].weight.grad is None
    wrong = CONFIG + "      shown: {type: norm_penalty, inputs: {input: batch:label}}\n"
    with pytest.raises(WiringError, match=r"term 'shown'.*input = batch:label.*floating-point numbers"):
        build_objective(wrong, models=models, example_batch={**batch, "label": torch.arange(5)})
