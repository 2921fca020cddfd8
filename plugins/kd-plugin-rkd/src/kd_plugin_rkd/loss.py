"""Relational knowledge distillation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_plugin_rkd.checks import NOTHING
from kd_plugin_rkd.relations import relational_loss
from kdcore.shapes import check_rank, check_same_batch, check_several

REDUCTIONS = ("mean", "sum")


class RKDLoss(nn.Module):
    """Difference between the distances and the angles among the samples of a batch.

        psi_ij   = ||x_i - x_j|| / (mean of ||x_i - x_j|| over pairs of two samples)
        cos_ijk  = <e_ij, e_kj>,  e_ij = (x_i - x_j) / ||x_i - x_j||
        loss     = distance_weight mean_ij  h(psi_ij(student) - psi_ij(teacher))
                 + angle_weight    mean_ijk h(cos_ijk(student) - cos_ijk(teacher))
        h(z)     = z^2 / 2 where |z| < 1, else |z| - 1/2

    Park, Kim, Lu, Cho: Relational Knowledge Distillation, 2019, equations 5 to 10. As in the authors'
    code the means run over all B^2 pairs and B^3 triples, where the paper sums over those of different
    samples; the others add nothing. Samples that coincide have distance 0, cosines 0 and no gradient
    between them.

    The teacher gets no gradient. float16 and bfloat16 are computed in float32, and float32 in float64 where the
    distances of one side span a factor of 64 or more, or are beyond float32 once squared; on an accelerator, where
    looking at them would stall the step, always. Second derivatives are
    not available.

    Arguments:
        distance_weight: weight of the distances, 0 or more.
        angle_weight: weight of the angles, 0 or more; not 0 as well.
        reduction: `mean` or `sum` over pairs and triples.
    """

    def __init__(self, distance_weight: float = 1.0, angle_weight: float = 2.0, reduction: str = "mean") -> None:
        super().__init__()
        for name, weight in (("distance_weight", distance_weight), ("angle_weight", angle_weight)):
            if not weight >= 0:
                raise ValueError(f"{name} is {weight}; it must be 0 or more")
        if not (distance_weight or angle_weight):
            raise ValueError(NOTHING)
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction is {reduction!r}; it must be one of {', '.join(REDUCTIONS)}")
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight
        self.reduction = reduction

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare features (B, ...) of the same samples; all but the batch is flattened and may differ.

        Raises ValueError where the batches differ or hold fewer than two samples.
        """
        check_rank(2, student=student, teacher=teacher)
        check_same_batch(student=student, teacher=teacher)
        size = len(student)
        check_several("rkd relates samples to each other", student=student)
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        mean = self.reduction == "mean"
        return relational_loss(
            student.flatten(1).to(dtype),
            teacher.flatten(1).to(dtype),
            self.distance_weight / (size**2 if mean else 1),
            self.angle_weight / (size**3 if mean else 1),
        )

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"distance_weight={self.distance_weight}, angle_weight={self.angle_weight}, reduction={self.reduction!r}"
