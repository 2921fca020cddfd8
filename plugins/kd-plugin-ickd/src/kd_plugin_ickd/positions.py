"""Differences of channel correlations of maps with few positions, and their gradients.

No matrix has C x C elements: F is (C, n), all products are of n x n or C x n. Norms of the rows of F F^T follow from
F^T F. With A = R F, which is F with its rows divided by them, and a = A_s - A_t, f = F_s - F_t for student and teacher,

    D      =  G_s - G_t  =  a F_s^T + A_t f^T
    P      =  D F_s      =  a (F_s^T F_s) + A_t (f^T F_s)
    ||D||^2 = <P, a> + <D f, A_t>,            D f = a (F_s^T f) + A_t (f^T f)
    c_i    =  <P_i, (A_s)_i>
    H F_s   = R_s (P - c A_s F_s^T F_s)
    H^T F_s = F_s (a - c A_s)^T A_s + f (A_t^T A_s)

where c scales rows. Each term holds a difference, so nothing cancels where student and teacher are close. It would
with G_s F_s - G_t F_t, which is cheaper by three of the thirteen products.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

# A row of G shorter than this share of the longest is that of a dead channel, which has no correlations.
EPS = 1e-12


class Side(NamedTuple):
    """What one model's maps give for themselves.

    Arguments:
        features: F at one length per sample: G does not depend on it, but rounding does.
        length: that by which maps were divided, (B, 1, 1).
        gram: F^T F.
        product: F F^T F.
        scale: the diagonal of R, (B, C, 1).
    """

    features: Tensor
    length: Tensor
    gram: Tensor
    product: Tensor
    scale: Tensor


def by_positions(student: Tensor, teacher: Tensor, gradient: Tensor) -> Tensor:
    """Return sum_b ||G_student - G_teacher||_F^2 for a block of samples (B, C, n), and write `gradient`."""
    theirs = _side(teacher)
    expected = theirs.features * theirs.scale
    own = _side(student)
    normalised = own.features * own.scale
    feature_change = torch.sub(own.features, theirs.features, out=theirs.features)
    change = normalised - expected

    across = torch.bmm(own.features.mT, feature_change)
    product = torch.bmm(change, own.gram, out=gradient).baddbmm_(expected, across.mT)
    backward = torch.bmm(expected.mT, normalised)
    expected_change = torch.bmm(expected.mT, change)
    # A_t^T A_t is A_t^T A_s - A_t^T a.
    small = across * expected_change.mT + _gram(feature_change) * (backward - expected_change)
    value: Tensor = torch.linalg.vecdot(product.flatten(1), change.flatten(1)).sum() + small.sum()

    along = torch.linalg.vecdot(product, normalised).unsqueeze(2)
    outward = torch.bmm(change.addcmul_(normalised, along, value=-1).mT, normalised)
    factor = 2 / own.length
    product.addcmul_(own.product, along * own.scale, value=-1).mul_(own.scale * factor)
    product.baddbmm_(own.features, outward.mul_(factor)).baddbmm_(feature_change, backward.mul_(factor))
    return value


def _side(features: Tensor) -> Side:
    length = torch.linalg.vector_norm(features.flatten(1), dim=1)[:, None, None]
    length = torch.where(length > 0, length, 1)
    features = features / length
    gram = _gram(features)
    product = torch.bmm(features, gram)
    squares = torch.linalg.vecdot(product, features).unsqueeze(2)
    dead = squares <= EPS**2 * squares.amax(1, keepdim=True)
    return Side(features, length, gram, product, squares.masked_fill_(dead, inf).rsqrt_())


def _gram(features: Tensor) -> Tensor:
    return torch.bmm(features.mT, features)
