"""Distance of normalised features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcore.gradient import with_gradient
from kdcore.precision import without_autocast
from kdcore.reduction import check_reduction
from kdcore.shapes import check_rank, check_same_shape


class KTALoss(nn.Module):
    """Distance of the student's normalised features from the auto-encoder's code of the teacher's.

        d = vec(student) / ||vec(student)||_q - vec(teacher) / ||vec(teacher)||_q
        p = 1      mean over all elements of |d|
        other p    mean over samples of ||d||_p

    He, Shen, Tian, Gong, Sun, Yan: Knowledge Adaptation for Efficient Semantic Segmentation, 2019, equation 3.
    There the norm of each sample is summed; the mean over elements with p = 1 is the published code's.
    A sample of zeros stays zero.

    The teacher gets no gradient. float16 and bfloat16 are computed in float32. With p = 1
    and q = 2 the gradient is made with the value, and first order.

    Arguments:
        p: the norm of the difference, 1 or more.
        q: the norm by which features are divided, 1 or more.
        reduction: `mean` or `sum`.
        eps: the length up to which a sample counts as zero, 0 or more.
    """

    def __init__(self, p: float = 1, q: float = 2, reduction: str = "mean", eps: float = 1e-12) -> None:
        super().__init__()
        for name, norm in (("p", p), ("q", q)):
            if not norm >= 1:
                raise ValueError(f"{name} is {norm}; it must be 1 or more")
        if not eps >= 0:
            raise ValueError(f"eps is {eps}; it must be 0 or more")
        check_reduction(reduction, ("mean", "sum"))
        self.p = p
        self.q = q
        self.reduction = reduction
        self.eps = eps

    @without_autocast
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare features (B, ...) of one shape. Raises ValueError where shapes differ."""
        check_rank(2, student=student, teacher=teacher)
        check_same_shape(student=student, teacher=teacher)
        if self.p == 1 and self.q == 2:
            return self._absolute(student, teacher)
        difference = self._normalized(student) - self._normalized(teacher.detach())
        losses = difference.abs() if self.p == 1 else torch.linalg.vector_norm(difference, self.p, dim=1)
        return losses.mean() if self.reduction == "mean" else losses.sum()

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"p={self.p}, q={self.q}, reduction={self.reduction!r}, eps={self.eps}"

    def _absolute(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss for p = 1 and q = 2, with its gradient: sign(d) without its part along the student."""
        own = self._flat(student)
        with torch.no_grad():
            length = self._length(own)
            counts = length > self.eps
            expected = self._flat(teacher)
            difference = (own / torch.where(counts, length, 1)).addcdiv_(
                expected, torch.where((found := self._length(expected)) > self.eps, found, 1), value=-1
            )
            scale = 1 / difference.numel() if self.reduction == "mean" else 1.0
            value = torch.linalg.vector_norm(difference, 1) * scale
            slope = difference.sign_()
            along = torch.bmm(slope.unsqueeze(1), own.detach().unsqueeze(2)).squeeze(2)
            scale_own = scale / torch.where(counts, length, 1)
            across = torch.where(counts, along * scale_own / length.square(), 0)
            gradient = slope.mul_(scale_own).addcmul_(own.detach(), across, value=-1)
        return with_gradient(own, value, gradient)

    def _normalized(self, features: Tensor) -> Tensor:
        flat = self._flat(features)
        length = self._length(flat)
        return flat / torch.where(length > self.eps, length, 1)

    def _length(self, flat: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(flat, self.q, dim=1, keepdim=True)
        return length

    def _flat(self, features: Tensor) -> Tensor:
        return features.flatten(1).to(torch.promote_types(features.dtype, torch.float32))
