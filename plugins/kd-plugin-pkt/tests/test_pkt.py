"""`pkt` against the paper's form and the values of an earlier system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kd_plugin_pkt.loss import PKTLoss
from torch import Tensor, nn

from kdcore import build_objective
from kdcore.errors import KdcoreError

from .textbook import pkt

GOLDEN = {
    key: torch.tensor(value, dtype=torch.float64)
    for key, value in json.loads(Path(__file__).with_name("golden.json").read_text()).items()
}
SMALL = """
version: 1
name: small
models: {student: {}, teacher: {}}
stages:
  - name: only
    train: [student]
    losses:
      pkt: {type: pkt, inputs: {student: "student:0", teacher: "teacher:0"}}
"""


def features(batch: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(batch, 3, 2, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), torch.randn(batch, 9, generator=generator, dtype=torch.float64)


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


@pytest.mark.parametrize("params", [{}, {"eps": 1e-3}])
@pytest.mark.parametrize("batch", [2, 7])
def test_value_and_gradient_are_the_textbooks(params: dict[str, object], batch: int) -> None:
    student, teacher = features(batch)
    loss, expected = PKTLoss(**params)(student, teacher), pkt(student, teacher, **params)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


def test_golden() -> None:
    student = GOLDEN["student"].clone().requires_grad_()
    loss = PKTLoss()(student, GOLDEN["teacher"])
    torch.testing.assert_close(loss, GOLDEN["value"])
    torch.testing.assert_close(gradient(loss, student), GOLDEN["grad"])


def test_scale_does_not_matter() -> None:
    student, teacher = features()
    torch.testing.assert_close(PKTLoss()(7 * student, teacher / 5), PKTLoss()(student, teacher))


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"student has shape \(1, 4\); pkt .* needs 2 or more"):
        PKTLoss()(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="student has 2 rows, teacher has 3 rows"):
        PKTLoss()(torch.zeros(2, 4), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"teacher has shape \(4,\); 2\+ dimensions"):
        PKTLoss()(torch.zeros(4, 4), torch.zeros(4))


def test_in_an_objective(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    models = {
        name: nn.Sequential(nn.Linear(4, width), nn.Linear(width, 3))
        for name, width in (("student", 2), ("teacher", 5))
    }
    batch = {"input": torch.randn(6, 4), "target": torch.arange(6) % 3}
    objective = build_objective(config, models=models, example_batch=batch)
    out = objective(batch)
    out.total.backward()
    # In float64, since of two float32 forms each may be wrong in another place where features are opposed.
    expected = pkt(*(models[name][0](batch["input"]).detach().double() for name in ("student", "teacher")))
    torch.testing.assert_close(out.terms["pkt"].double(), expected, rtol=1e-4, atol=1e-6)
    assert models["student"][0].weight.grad.abs().sum() > 0
    with pytest.raises(KdcoreError, match="needs 2 or more"):
        objective({key: each[:1] for key, each in batch.items()})
