"""Transfer of spatial attention maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.shapes import check_rank, check_same_batch

MODES = ("code", "paper")


class ATLoss(nn.Module):
    """Distance between the normalised attention maps of student and teacher.

        q = vec(sum_c |A_c|^p) / ||vec(sum_c |A_c|^p)||_2
        code     mean over samples b and positions x of (q_student - q_teacher)_bx^2
        paper    mean over samples b of ||q_student - q_teacher||_2

    Zagoruyko, Komodakis: Paying More Attention to Attention, 2017, equation 2. `paper` is that
    equation without its beta / 2, which is the term's weight; `code`, the authors' published form,
    is what results with a weight of 1000 refer to. Sum and mean over channels agree, because the
    map is normalised. A map of zeros stays zero.

    The teacher gets no gradient. float16 and bfloat16 are computed in float32.

    Arguments:
        mode: `code` or `paper`.
        p: the exponent of the activations, 1 or more.
    """

    def __init__(self, mode: str = "code", p: float = 2) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(MODES)}")
        if not p >= 1:
            raise ValueError(f"p is {p}; it must be 1 or more")
        self.mode = mode
        self.p = p

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare feature maps (B, C, *spatial) of 1 to 3 spatial dimensions; only C may differ.

        Raises ValueError where shapes do not fit.
        """
        _check(student, teacher)
        difference = self._attention(student) - self._attention(teacher.detach())
        if self.mode == "code":
            return difference.square().mean()
        # The norm's own gradient is 0 at 0, unlike the square root's.
        norms: Tensor = torch.linalg.vector_norm(difference, dim=1)
        return norms.mean()

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"mode={self.mode!r}, p={self.p}"

    def _attention(self, features: Tensor) -> Tensor:
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        energy = features.square() if self.p == 2 else features.abs().pow(self.p)
        return F.normalize(energy.sum(1).flatten(1))


def _check(student: Tensor, teacher: Tensor) -> None:
    check_rank(3, 5, student=student, teacher=teacher)
    check_same_batch(student=student, teacher=teacher)
    if student.shape[2:] != teacher.shape[2:]:
        raise ValueError(
            f"student has shape {tuple(student.shape)} but teacher has {tuple(teacher.shape)}; their spatial sizes "
            f"{tuple(student.shape[2:])} and {tuple(teacher.shape[2:])} must be equal: choose layers of one "
            "resolution, or put a resize adapter before one of them"
        )
