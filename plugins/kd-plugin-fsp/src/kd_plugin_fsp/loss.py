"""Distillation of the flow between layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugin_fsp.flow import Pair, difference, squared_difference
from kdcore.precision import without_autocast
from kdcore.shapes import check_rank, check_same_batch

NORMS = ("frobenius", "columns")
POOLS = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}


class FSPLoss(nn.Module):
    """Difference of the Gram matrices between the feature maps of two layers.

        G          = F S^T / n                     F: first map (C1, n), S: second map (C2, n), n positions
        frobenius  mean over samples of ||G_student - G_teacher||_F^2
        columns    mean over samples of sum_c ||(G_student - G_teacher)[:, c]||_2

    Yim, Joo, Bae, Kim: A Gift from Knowledge Distillation, 2017, equations 1 and 2; their weights
    lambda_i are those of terms or pairs. Where the two maps of a model differ in size, the larger is max-pooled to
    the smaller.

    The teacher gets no gradient. float16 and bfloat16 are computed in float32. With `frobenius` and few positions the
    gradient is made with the value, and first order: to differentiate it again is an error.

    Arguments:
        norm: `frobenius`, or `columns` as torchdistill.
    """

    def __init__(self, norm: str = "frobenius") -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm is {norm!r}; it must be one of {', '.join(NORMS)}")
        self.norm = norm

    @without_autocast
    def forward(
        self, student_first: Tensor, student_second: Tensor, teacher_first: Tensor, teacher_second: Tensor
    ) -> Tensor:
        """Compare maps (B, C1, *spatial) and (B, C2, *spatial) of 1 to 3 spatial dimensions.

        Raises ValueError where student and teacher differ in C1 or C2, or shapes do not fit otherwise.
        """
        maps = {
            "student_first": student_first,
            "student_second": student_second,
            "teacher_first": teacher_first,
            "teacher_second": teacher_second,
        }
        _check(maps)
        student = _flow(student_first, student_second)
        teacher = _flow(teacher_first.detach(), teacher_second.detach())
        if self.norm == "frobenius":
            return squared_difference(student, teacher) / len(student_first)
        norms: Tensor = torch.linalg.vector_norm(difference(student, teacher), dim=1)
        return norms.sum() / len(student_first)

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"norm={self.norm!r}"


def _flow(first: Tensor, second: Tensor) -> Pair:
    """Return both maps with one flat dimension of the same positions."""
    size = [min(sizes) for sizes in zip(first.shape[2:], second.shape[2:], strict=True)]
    return _pooled(first, size), _pooled(second, size)


def _pooled(features: Tensor, size: list[int]) -> Tensor:
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    if list(features.shape[2:]) != size:
        features = POOLS[len(size)](features, size)
    return features.flatten(2)


def _check(maps: dict[str, Tensor]) -> None:
    check_rank(3, 5, **maps)
    check_same_batch(**maps)
    for which in ("first", "second"):
        student, teacher = maps[f"student_{which}"], maps[f"teacher_{which}"]
        if student.shape[1] != teacher.shape[1]:
            raise ValueError(
                f"student_{which} has shape {tuple(student.shape)} but teacher_{which} has {tuple(teacher.shape)}; fsp "
                "needs as many channels in both: choose other layers, or put a conv1x1 adapter on the student's map"
            )
    for side in ("student", "teacher"):
        first, second = maps[f"{side}_first"], maps[f"{side}_second"]
        if first.dim() != second.dim():
            raise ValueError(
                f"{side}_first has shape {tuple(first.shape)} but {side}_second has {tuple(second.shape)}; "
                "fsp needs as many spatial dimensions in both"
            )
