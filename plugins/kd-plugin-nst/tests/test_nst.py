"""`nst` against the paper's form."""

from __future__ import annotations

import pytest
import torch
from kd_plugin_nst.loss import NSTLoss
from torch import Tensor

from .textbook import nst


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


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


@pytest.mark.parametrize("offset", [10, 100, 1000])
def test_a_common_offset_costs_the_gaussian_no_more_than_the_paper(offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student = (torch.randn(4, 12, 7, 7, generator=generator) + offset).requires_grad_()
    teacher = torch.randn(4, 18, 7, 7, generator=generator) + offset
    exact = student.detach().double().requires_grad_()
    expected = nst(exact, teacher.double(), "gaussian")
    wanted = gradient(expected, exact)
    loss = NSTLoss("gaussian")(student, teacher)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=0)
    # Dividing by the norm has rounded the deviations already, which are 1 / offset of the values.
    assert (gradient(loss, student) - wanted).norm() < 1e-7 * max(offset, 10) * wanted.norm()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("value", [0.5, 0.3])
def test_constant_maps_are_one_distribution_whatever_their_channels(kernel: str, value: float) -> None:
    student, teacher = torch.full((2, 4, 5, 5), value, requires_grad=True), torch.full((2, 6, 5, 5), 3 * value)
    loss = NSTLoss(kernel)(student, teacher)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert gradient(loss, student).abs().max() < 1e-6


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\) but teacher has \(2, 5, 8, 8\); nst needs maps of one"):
        NSTLoss()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 8, 8))
    with pytest.raises(ValueError, match="student has 2 rows, teacher has 3 rows"):
        NSTLoss()(torch.zeros(2, 3, 4), torch.zeros(3, 3, 4))
    with pytest.raises(ValueError, match=r"teacher has shape \(2, 3\); 3 to 5 dimensions"):
        NSTLoss()(torch.zeros(2, 3, 4), torch.zeros(2, 3))
