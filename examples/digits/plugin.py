"""A loss of your own, in one file; plugin.yaml uses it."""

import torch
from torch import Tensor, nn

import kdcore


class CosineLoss(nn.Module):
    """One minus the cosine between the centred logits of student and teacher."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare logits (B, C); the teacher gets no gradient."""
        student, teacher = (logits - logits.mean(-1, keepdim=True) for logits in (student, teacher.detach()))
        return 1 - torch.cosine_similarity(student, teacher, dim=-1).mean()


kdcore.register("loss", "cosine", CosineLoss)
