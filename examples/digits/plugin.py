"""A plugin in one file: the loss `cosine_logits`, for examples/digits/plugin.yaml."""

import torch
from torch import Tensor

import kdcore


class CosineLogits(torch.nn.Module):
    """One minus the cosine between the student's logits and the teacher's."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare logits (B, C)."""
        return 1 - torch.cosine_similarity(student, teacher.detach()).mean()


kdcore.register("loss", "cosine_logits", CosineLogits)
