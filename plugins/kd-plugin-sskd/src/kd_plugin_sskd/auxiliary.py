"""The self-supervised task: to tell which image a rotated one was made from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugin_sskd.rows import check_rows, cosines, full_precision
from kdcore.collective import gather_with_gradient
from kdcore.precision import without_autocast
from kdcore.reduction import check_reduction


class SSKDAuxiliaryLoss(nn.Module):
    """Cross entropy of finding the image that a rotated one was made from, by the cosine of embeddings.

        L = mean_i -log softmax_j(cos(e(rotated_i), e(image_j)))_{j = the image of i}

    Xu, Liu, Li, Loy: Knowledge Distillation Meets Self-Supervision, 2020, section 3.1, without a temperature, as
    the authors train. It trains the head of the frozen teacher, before the student is taught by both.

    In several processes the batch is that of all of them. float16 and bfloat16 are computed in float32.

    Arguments:
        reduction: `mean` or `sum` over the rotated images.
    """

    # Evaluation data need not be rotated, which rows alone do not tell.
    training_only = True

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        check_reduction(reduction, ("mean", "sum"))
        self.reduction = reduction

    @without_autocast
    def forward(self, embedding: Tensor) -> Tensor:
        """Return the loss of embeddings (4 n, D), an image and its three rotations after one another.

        Raises ValueError unless rows come in fours.
        """
        check_rows(embedding=embedding)
        scores = cosines(gather_with_gradient(full_precision(embedding)))
        origin = torch.arange(len(scores), device=scores.device) // 3
        return F.cross_entropy(scores, origin, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"reduction={self.reduction!r}"
