"""Inter-channel correlation distillation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_plugin_ickd.correlation import squared_difference
from kdcore.precision import without_autocast
from kdcore.shapes import check_rank, check_same_batch


class ICKDLoss(nn.Module):
    """Squared difference of the correlations between the channels of a feature map.

        G     = F F^T, each row divided by its L2 norm      F: map (C, n) of one sample, n positions
        loss  = sum over samples of ||G_student - G_teacher||_F^2 / (C B^batch_exponent)

    Liu et al.: Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation,
    2021, equations 2 to 4, with rows normalised as in the authors' code. A channel of zeros has a
    correlation of zero.

    The teacher gets no gradient. The student's is made with the value, and first order: to differentiate it again is
    an error. float16 and bfloat16 are computed in float32.

    Arguments:
        batch_exponent: 1 for the mean over samples; 2, as torchdistill, divides by the batch size once
            more, so that the value depends on it.
    """

    def __init__(self, batch_exponent: int = 1) -> None:
        super().__init__()
        if batch_exponent not in (1, 2):
            raise ValueError(f"batch_exponent is {batch_exponent}; it must be 1 or 2")
        self.batch_exponent = batch_exponent

    @without_autocast
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare feature maps (B, C, *spatial) of 1 to 3 spatial dimensions, whose sizes may differ.

        Raises ValueError where the numbers of channels or the batches differ.
        """
        check_rank(3, 5, student=student, teacher=teacher)
        check_same_batch(student=student, teacher=teacher)
        batch, channels = student.shape[:2]
        if channels != teacher.shape[1]:
            raise ValueError(
                f"student has shape {tuple(student.shape)} but teacher has {tuple(teacher.shape)}; ickd needs as many "
                "channels in both: the adapter ickd_embed brings the student's to the teacher's"
            )
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        own, theirs = (features.to(dtype).flatten(2) for features in (student, teacher.detach()))
        samples = batch if self.batch_exponent == 1 else batch**2
        return squared_difference(own, theirs) / (channels * samples)

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"batch_exponent={self.batch_exponent}"
