"""The teacher's features, generated from the student's masked ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.contracts import Facts, TensorFacts
from kdcore.precision import without_autocast
from kdcore.reduction import check_reduction
from kdcore.shapes import check_rank, check_same_batch


class MGDLoss(nn.Module):
    """Squared distance of the teacher's feature map from one generated from the student's masked map.

        L = 1/B sum_b sum_chw (teacher - G(align(student) * mask))^2
        G = Conv3x3(ReLU(Conv3x3(.))),   mask_hw = 0 with probability mask_ratio, else 1

    Yang, Li, Shao, Shi, Yuan, Yuan: Masked Generative Distillation, 2022, equations 2 to 4. One mask per
    sample is shared by its channels and drawn from torch's global generator; in eval mode nothing is masked. `align` is
    a 1 x 1 convolution, there only where the channels differ. It and G are trained with the student. A weight of
    2e-5, as the paper's for detection, belongs to `batchmean`.

    The teacher gets no gradient. float16 and bfloat16 are computed in the precision of the weights, float32
    unless converted.

    Arguments:
        mask_ratio: 0 to 1.
        reduction: `batchmean`, the sum of a sample's elements averaged over the batch, or `mean` over all elements.
        student_channels, teacher_channels: of the maps; taken from them unless given.
    """

    def __init__(
        self,
        mask_ratio: float = 0.65,
        reduction: str = "batchmean",
        student_channels: int | None = None,
        teacher_channels: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= mask_ratio <= 1:
            raise ValueError(f"mask_ratio is {mask_ratio}; it must be from 0 to 1")
        check_reduction(reduction, ("batchmean", "mean"))
        for name, size in (("student_channels", student_channels), ("teacher_channels", teacher_channels)):
            if size is not None and size < 1:
                raise ValueError(f"{name} must be 1 or more, found {size}")
        self.mask_ratio = mask_ratio
        self.reduction = reduction
        self.student_channels = student_channels
        self.teacher_channels = teacher_channels
        self.align: nn.Module | None = None
        self.generator: nn.Sequential | None = None
        if student_channels is not None and teacher_channels is not None:
            self._build(student_channels, teacher_channels)

    def setup(self, facts: Facts) -> None:
        """Create the layers for the maps' channels; raises ValueError where those differ from what exists."""
        student = _channels("student", facts.inputs["student"], self.student_channels)
        teacher = _channels("teacher", facts.inputs["teacher"], self.teacher_channels)
        if self.generator is None:
            self._build(student, teacher)

    @without_autocast
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare feature maps (B, C, H, W) and (B, C', H, W). Raises ValueError where shapes do not fit."""
        if self.generator is None or self.align is None:
            raise ValueError("mgd was used before setup(facts) created its layers; call it, or give both channels")
        self._check(student, teacher)
        dtype = next(self.generator.parameters()).dtype
        features: Tensor = self.align(student.to(dtype))
        if self.training:
            drawn = torch.rand(len(student), 1, *student.shape[2:], device=student.device)
            features = features * (drawn <= 1 - self.mask_ratio).to(features.dtype)
        generated, expected = self.generator(features), teacher.detach().to(dtype)
        if self.reduction == "mean":
            return F.mse_loss(generated, expected)
        return F.mse_loss(generated, expected, reduction="sum") / len(student)

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"mask_ratio={self.mask_ratio}, reduction={self.reduction!r}"

    def _build(self, student: int, teacher: int) -> None:
        self.student_channels, self.teacher_channels = student, teacher
        self.align = nn.Identity() if student == teacher else nn.Conv2d(student, teacher, 1)
        self.generator = nn.Sequential(
            nn.Conv2d(teacher, teacher, 3, padding=1), nn.ReLU(), nn.Conv2d(teacher, teacher, 3, padding=1)
        )

    def _check(self, student: Tensor, teacher: Tensor) -> None:
        check_rank(4, 4, student=student, teacher=teacher)
        check_same_batch(student=student, teacher=teacher)
        shapes = f"student has shape {tuple(student.shape)} and teacher {tuple(teacher.shape)}"
        if (student.shape[1], teacher.shape[1]) != (self.student_channels, self.teacher_channels):
            raise ValueError(f"{shapes}; mgd is for {self.student_channels} and {self.teacher_channels} channels")
        if student.shape[2:] != teacher.shape[2:]:
            raise ValueError(
                f"{shapes}; their sizes must be equal: choose layers of one resolution, or put a resize adapter before "
                "one of them"
            )


def _channels(name: str, found: object, given: int | None) -> int:
    if not isinstance(found, TensorFacts) or len(found.shape) != 4:
        shape = found.shape if isinstance(found, TensorFacts) else type(found).__name__
        raise ValueError(f"{name} has shape {shape}; one feature map (B, C, H, W) is needed")
    if given not in (None, found.shape[1]):
        raise ValueError(f"{name}_channels is {given} but {name} has shape {found.shape}; leave {name}_channels out")
    return found.shape[1]
