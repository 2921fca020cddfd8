"""Distance of features before their ReLU."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.contracts import Facts
from kdcore.gradient import with_gradient
from kdcore.shapes import check_rank, check_same_shape

# A scale of 0 is a channel that is always its shift; so small a scale has the same margin.
SMALLEST_SCALE = 1e-12


class OFDLoss(nn.Module):
    """Squared distance of features before their ReLU, which leaves out what ReLU would.

        T = max(teacher, m_c)
        L = mean_b sum_i d_i,    d_i = 0 where S_i <= T_i <= 0, else (S_i - T_i)^2
        m_c = E[x | x < 0],  x ~ N(beta_c, gamma_c^2)

    with the shift beta and scale gamma of the teacher's batch norm: negative features of the teacher, which its
    ReLU discards, are replaced with their mean m_c, and the student may be below.

    Heo, Kim, Yun, Park, Kwak, Choi: A Comprehensive Overhaul of Feature Distillation, 2019, equations 1 to 4. Their
    code sets m_c to -3 gamma_c where fewer than 1 in 1000 features are negative; here it is the expectation always.

    The teacher gets no gradient. The student's is made with the value, and first order: to differentiate it again is
    an error. float16 and bfloat16 are computed in float32.
    """

    def setup(self, facts: Facts) -> None:
        """Raise ValueError unless `norm` has a shift and a scale for each channel."""
        norm = facts.inputs.get("norm")
        if isinstance(norm, nn.Module):
            _shift_and_scale(norm)

    def forward(self, student: Tensor, teacher: Tensor, norm: nn.Module) -> Tensor:
        """Compare features (B, C, *spatial) of one shape.

        Arguments:
            student: features before ReLU, in as many channels as the teacher's.
            teacher: the output of `norm`.
            norm: the teacher's batch norm; its margins are computed in each step, from C numbers.

        Raises ValueError where shapes do not fit, or `norm` is no normalisation of C channels.
        """
        check_rank(2, 5, student=student, teacher=teacher)
        check_same_shape(student=student, teacher=teacher)
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        margins = channel_margins(norm, student).to(dtype)
        if len(margins) not in (1, teacher.shape[1]):
            raise ValueError(f"teacher has shape {tuple(teacher.shape)} but norm has {len(margins)} channels")
        own = student.to(dtype)
        with torch.no_grad():
            target = teacher.to(dtype).maximum(margins.view(1, -1, *[1] * (teacher.dim() - 2)))
            difference = own - target
            # Where the student is below a target of 0 or less, nothing is asked of it.
            difference.masked_fill_((difference <= 0).logical_and_(target <= 0), 0)
            value = torch.linalg.vector_norm(difference).square() / len(student)
            gradient = difference.mul_(2 / len(student))
        return with_gradient(own, value, gradient)


def channel_margins(norm: nn.Module, like: Tensor) -> Tensor:
    """Return m_c = E[x | x < 0] for each channel of a batch norm, (C,), or (1,) if it has neither shift nor scale.

        m = beta - gamma phi(z) / Phi(-z) = beta - gamma sqrt(2 / pi) / erfcx(z / sqrt(2)),   z = beta / gamma

    The scaled complementary error function keeps this exact where hardly any feature is negative.
    """
    shift, scale = _shift_and_scale(norm)
    if shift is None or scale is None:
        shift, scale = like.new_zeros(1), like.new_ones(1)
    dtype = torch.promote_types(shift.dtype, torch.float32)
    beta, gamma = shift.detach().to(dtype), scale.detach().to(dtype).abs().clamp_min(SMALLEST_SCALE)
    hazard = math.sqrt(2 / math.pi) / torch.special.erfcx(beta / gamma / math.sqrt(2))
    margins: Tensor = (beta - gamma * hazard).clamp_max(0)
    return margins


def _shift_and_scale(norm: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    found: list[Any] = [getattr(norm, name, nn) for name in ("bias", "weight")]
    # Of a layer or group norm a channel has no mean of its own, so its shift and scale say nothing of its distribution;
    # what is frozen or of another library is known by the statistics it has, or could have.
    if not hasattr(norm, "running_mean") or any(
        each is not None and not (isinstance(each, Tensor) and each.dim() == 1) for each in found
    ):
        raise ValueError(
            f"norm is a {type(norm).__name__}; a batch norm is needed, with a shift and a scale for each channel: "
            "bind the one whose output is bound to teacher, with @module"
        )
    return found[0], found[1]
