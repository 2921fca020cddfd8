"""Transfer of activation boundaries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcore.shapes import check_rank, check_same_shape

REDUCTIONS = ("mean", "sum")


class ABLoss(nn.Module):
    """Squared hinge that activates the student's neurons where the teacher's are active.

        l     = max(margin - s, 0)^2 where t > 0, else max(margin + s, 0)^2
        loss  = sum of l over a sample's responses, averaged over samples

    Heo, Lee, Yun, Choi: Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden
    Neurons, 2019, equation 4. Responses are those before the activation: s > 0 means active.

    The teacher gets no gradient. float16 and bfloat16 are computed in float32.

    Arguments:
        margin: how far beyond 0 a response should lie, above 0.
        reduction: `mean` or `sum` over samples.
    """

    def __init__(self, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__()
        if not margin > 0:
            raise ValueError(f"margin is {margin}; it must be above 0")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction is {reduction!r}; it must be one of {', '.join(REDUCTIONS)}")
        self.margin = margin
        self.reduction = reduction

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare responses (B, ...) of one shape. Raises ValueError where shapes differ."""
        check_rank(1, student=student, teacher=teacher)
        check_same_shape(student=student, teacher=teacher)
        dtype = torch.promote_types(student.dtype, torch.float32)
        student = student.to(dtype)
        # One tensor of signs is all that the gradient needs to keep of the teacher.
        signs = torch.where(teacher.detach() > 0, student.new_tensor(-1), student.new_tensor(1))
        total = torch.addcmul(student.new_tensor(self.margin), signs, student).clamp_min(0).square().sum()
        return total / len(student) if self.reduction == "mean" else total

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"margin={self.margin}, reduction={self.reduction!r}"
