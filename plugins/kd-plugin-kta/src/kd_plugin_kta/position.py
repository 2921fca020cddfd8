"""How alike the positions of a feature map are, and the gradient of their distance from the teacher's.

With unit vectors as the columns of S (C, n) and T (C', n), and P = S + T and M = S - T (the narrower one filled with
zeros),

    D       =  S'S - T'T  =  (P'M + M'P) / 2
    ||D||^2 = (<PP', MM'> + tr((MP')^2)) / 2
    S D     = ((PP' + MP') M + (MM' + PM') P) / 4

The matrices of the first line are positions x positions, those of the others channels x channels: whatever is smaller
is made. Every term contains M, so nothing is lost where both are nearly equal, unlike in
||S'S||^2 + ||T'T||^2 - 2 ||ST'||^2. A norm of D has the gradient 2 S D / ||D||, of which the part along each column of
S is without effect.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcore.blocks import sample_blocks
from kdcore.gradient import with_gradient


def sum_by_position(student: Tensor, teacher: Tensor, eps: float) -> Tensor:
    """Return sum_b ||S'S - T'T||_F for features (B, C, n) and (B, C', n), whose columns are brought to length one.

    The teacher gets no gradient; the student's is first order.

    Arguments:
        student: in float32 or float64.
        teacher: of the same dtype.
        eps: the length up to which a column counts as zero, and is left as it is.
    """
    channels, positions = max(student.shape[1], teacher.shape[1]), student.shape[2]
    with torch.no_grad():
        blocks = sample_blocks(student, channels * positions)
        gradient = torch.empty(student.shape, dtype=student.dtype, device=student.device)
        values = [_compared(student[block], teacher[block], eps, gradient[block]) for block in blocks]
        value = values[0] if len(values) == 1 else torch.stack(values).sum()
    return with_gradient(student, value, gradient)


def _compared(student: Tensor, teacher: Tensor, eps: float, gradient: Tensor) -> Tensor:
    """Return the sum for a block of samples, and write `gradient`."""
    own, own_length, counts = _unit(student, eps)
    theirs, _, _ = _unit(teacher, eps)
    s, t = own, theirs
    channels, positions = max(s.shape[1], t.shape[1]), s.shape[2]
    if s.shape[1] != t.shape[1]:  # padding by nothing would copy
        s, t = (F.pad(each, (0, 0, 0, channels - each.shape[1])) for each in (s, t))
    plus, minus = s + t, torch.sub(s, t, out=t)
    distance = _by_positions if channels > positions else _by_channels
    value = distance(own, plus, minus, gradient)
    along = torch.linalg.vecdot(gradient, own, dim=1).unsqueeze(1).mul_(counts)
    gradient.addcmul_(own, along, value=-1).div_(own_length)
    return value.sum()


def _by_positions(own: Tensor, plus: Tensor, minus: Tensor, slope: Tensor) -> Tensor:
    """Return ||D|| of each sample, and write 2 S D / ||D||."""
    product = torch.bmm(plus.mT, minus)
    twice = product + product.mT
    value: Tensor = torch.linalg.vector_norm(twice.flatten(1), dim=1) / 2
    torch.bmm(own, twice.mul_(_inverse(value)), out=slope)
    return value


def _by_channels(own: Tensor, plus: Tensor, minus: Tensor, slope: Tensor) -> Tensor:
    """Return ||D|| of each sample, and write 2 S D / ||D||."""
    cross = torch.bmm(minus, plus.mT)
    both = [torch.bmm(each, each.mT) for each in (plus, minus)]
    squares = (both[0] * both[1]).sum((1, 2)) + (cross * cross.mT).sum((1, 2))
    # Rounding may leave less than 0 where the true value is 0; there the gradient is 0, as a norm's is.
    value = (squares / 2).clamp_min_(0).sqrt_()
    factor = _inverse(value) / 2
    mixed = both[1].add_(cross.mT).mul_(factor), both[0].add_(cross).mul_(factor)
    rows = own.shape[1]
    torch.bmm(mixed[0][:, :rows], plus, out=slope).baddbmm_(mixed[1][:, :rows], minus)
    return value


def _unit(features: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return columns of length one, the lengths that they were divided by, and which were."""
    # A vector_norm over a dimension that is not the last takes four times as long.
    length = torch.linalg.vecdot(features, features, dim=1).sqrt_().unsqueeze(1)
    counts = length > eps
    length = torch.where(counts, length, 1)
    return features / length, length, counts


def _inverse(value: Tensor) -> Tensor:
    """Return 1 / value of each sample, 0 where it is 0, for its matrices."""
    return torch.where(value > 0, 1 / value, 0)[:, None, None]
