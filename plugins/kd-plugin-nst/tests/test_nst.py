"""`nst` against the paper's form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kd_plugin_nst.loss import NSTLoss
from torch import Tensor, nn

from kdcore import build_objective

from .textbook import nst

SMALL = """
version: 1
name: small
models: {student: {}, teacher: {}}
stages:
  - name: only
    train: [student]
    losses:
      nst: {type: nst, inputs: {student: "student:0", teacher: "teacher:0"}}
"""


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


def nets() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        name: nn.Sequential(nn.Conv2d(1, width, 3), nn.Conv2d(width, width, 3), nn.Flatten(), nn.Linear(16 * width, 3))
        for name, width in (("student", 3), ("teacher", 5))
    }


def batch_of(size: int) -> dict[str, Tensor]:
    return {"input": torch.randn(size, 1, 8, 8), "target": torch.arange(size) % 3}


KERNELS = ["polynomial", "linear", "gaussian"]


def features(*spatial: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, count, *spatial, generator=generator, dtype=torch.float64) for count in (3, 5))
    return student.requires_grad_(), teacher


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("spatial", [(3,), (4, 4), (2, 1, 2)])
def test_value_and_gradient_are_the_textbooks(kernel: str, spatial: tuple[int, ...]) -> None:
    student, teacher = features(*spatial)
    loss, expected = NSTLoss(kernel)(student, teacher), nst(student, teacher, kernel)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


def test_channels_have_no_order_and_no_scale() -> None:
    student, teacher = features(3, 3)
    torch.testing.assert_close(NSTLoss()(student.flip(1), 3 * teacher), NSTLoss()(student, teacher))


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\) but teacher has \(2, 5, 8, 8\); nst needs maps of one"):
        NSTLoss()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 8, 8))
    with pytest.raises(ValueError, match="student has 2 rows, teacher has 3 rows"):
        NSTLoss()(torch.zeros(2, 3, 4), torch.zeros(3, 3, 4))
    with pytest.raises(ValueError, match=r"teacher has shape \(2, 3\); 3 to 5 dimensions"):
        NSTLoss()(torch.zeros(2, 3, 4), torch.zeros(2, 3))


def test_in_an_objective(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    models, batch = nets(), batch_of(4)
    out = build_objective(config, models=models, example_batch=batch)(batch)
    out.total.backward()
    expected = nst(models["student"][0](batch["input"]), models["teacher"][0](batch["input"]))
    torch.testing.assert_close(out.terms["nst"], expected.detach())
    assert models["student"][0].weight.grad.abs().sum() > 0
