"""The mean Mahalanobis distance between two matrices of cosines, with its gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdcore.precision import without_autocast

# By how many roundings of 1 the cosines of two samples may differ without being different.
ROUNDINGS = 2


class MeanDistance(torch.autograd.Function):
    """`MeanDistance.apply(student, teacher, tikhonov)`, for rows X of length 1 on both sides.

    With D = X_s X_s^T - X_t X_t^T and the distances r_i = sqrt(d_i^T y_i), y_i = S^-1 d_i, of its rows,
    r_i^2 changes by 2 y_i^T dd_i - y_i^T dS y_i. That needs one inverse and no gradient of it, and D,
    being symmetric, one product back to X_s. Where r_i is 0, or no more than rounding makes of 0, its gradient is 0.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, tikhonov: float) -> Tensor:
        """Return the mean distance."""
        rows = _difference(student, teacher)
        centred = rows - rows.mean(0)
        covariance = (centred.T @ centred).div_(len(rows) - 1)
        covariance.diagonal().add_(tikhonov)
        try:
            factor = torch.linalg.cholesky(covariance)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            # Nothing else does it: the covariance of cosines, each at most 1, plus a positive diagonal.
            raise ValueError("student or teacher holds NaN or infinity; skd_direction has no distance then") from error
        solved = rows @ torch.cholesky_inverse(factor)
        # The inverse is positive; the rounding of a product close to 0 need not be.
        distances = (rows * solved).sum(1).clamp_min_(0).sqrt_()
        # A row that rounding alone has made, as that of samples orthogonal to all others, has a direction of noise.
        noise = ROUNDINGS * torch.finfo(rows.dtype).eps * math.sqrt(len(rows) / tikhonov)
        ctx.save_for_backward(student, centred, solved, distances.masked_fill(distances <= noise, 0))
        return distances.mean()

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the student's rows."""
        student, centred, solved, distances = ctx.saved_tensors
        size = len(student)
        weights = (upstream / size / distances).masked_fill_(distances == 0, 0)
        weighted = solved * weights.unsqueeze(1)
        through_covariance = (centred @ solved.T @ weighted).div_(size - 1)
        gradient = weighted - through_covariance.sub_(through_covariance.mean(0))
        return (gradient + gradient.T) @ student, None, None


def _difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Return S S^T - T T^T, where the shapes allow it without the cancellation near equality."""
    if student.shape != teacher.shape:
        rows = student @ student.T - teacher @ teacher.T
    else:
        apart = student - teacher
        rows = torch.addmm(teacher @ apart.T, apart, student.T)
    # A sample's cosine with itself is 1, or 0 for zeros.
    rows.diagonal().round_()
    return rows
