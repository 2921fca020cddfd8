"""Distillation towards a teacher that is corrected where the label does not lead."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcore.contracts import Facts
from kdcore.labels import check_classes, check_labels
from kdcore.shapes import check_rank, check_same_shape


class MFTLoss(nn.Module):
    """Divergence from the teacher's distribution, moved towards the label until it leads by a threshold.

        T^2 sum_c p'_c (log p'_c - log q_c)      p = softmax(teacher / T), q = softmax(student / T)
        p' = (1 - a) p + a e_y                   e_y is 1 at the label y and 0 elsewhere
        a = max(0, threshold - lead) / (1 - lead)      lead = p_y - max_{c != y} p_c

    averaged over the distributions. Belcak et al.: Minifinetuning, 2025: the least mixture with the
    label for which p'_y - max_{c != y} p'_c is at least the threshold, so what the teacher knows of all
    other classes keeps its proportions. In the paper the teacher is the student before finetuning.
    T^2 is that of ModelOpt's implementation.

    The teacher gets no gradient. float16 and bfloat16 are computed in float32.

    Arguments:
        threshold: from 0 (the label ties at least) to 1 (p' is the label alone).
        temperature: T > 0.
    """

    def __init__(self, threshold: float = 0.2, temperature: float = 1.0) -> None:
        super().__init__()
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}; it must be from 0 to 1")
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0")
        self.threshold = threshold
        self.temperature = temperature

    def setup(self, facts: Facts) -> None:
        """Refuse fewer classes than the data set has, which would fail at the first label beyond them."""
        check_classes(facts)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Return the mean divergence.

        Arguments:
            student: logits (B, ..., C), of two classes or more.
            teacher: logits of the same shape.
            target: class indices (B, ...), each from 0 to C - 1.

        Raises ValueError where shapes or labels do not fit.
        """
        check_rank(2, student=student, teacher=teacher)
        check_same_shape(student=student, teacher=teacher)
        if student.shape[-1] < 2:
            raise ValueError(
                f"student has shape {tuple(student.shape)}; mft needs two classes or more, the last dimension"
            )
        check_labels(target, student)
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        p = self._softened(teacher.detach(), dtype).softmax(-1)
        p = corrected(p, target.long().unsqueeze(-1), self.threshold)
        log_q = self._softened(student, dtype).log_softmax(-1)
        # Not in place on log_q, whose own gradient needs it unchanged. Excluded classes count 0.
        losses = (p.log() - log_q).mul_(p).masked_fill_(p == 0, 0).sum(-1)
        return self.temperature**2 * losses.mean()

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"threshold={self.threshold}, temperature={self.temperature}"

    def _softened(self, logits: Tensor, dtype: torch.dtype) -> Tensor:
        logits = logits.to(dtype)
        return logits if self.temperature == 1 else logits / self.temperature


def corrected(p: Tensor, label: Tensor, threshold: float) -> Tensor:
    """Overwrite probabilities (..., C) with the least mixture in which the label (..., 1) leads by `threshold`."""
    own = p.gather(-1, label)
    lead = own - p.scatter_(-1, label, -1).amax(-1, keepdim=True)
    # A label that has all the probability leads by 1, the largest threshold: nothing to mix in, 0 / 0.
    mixed_in = ((threshold - lead).clamp_min_(0) / (1 - lead)).nan_to_num_(0)
    p.scatter_(-1, label, own).mul_(1 - mixed_in)
    return p.scatter_add_(-1, label, mixed_in)
