"""Differences of channel correlations, in the cheaper of two exact forms.

The correlations of a sample are G = A F^T with F (C, n), and A its rows divided by the norms of G's rows. Where
there are few positions n, the C x C numbers cost more than they say. The norms follow from F^T F alone,
and with a = A_student - A_teacher and f = F_student - F_teacher

    G_student - G_teacher  =  a F_student^T + A_teacher f^T

so a squared norm of it needs products of n x n only. Each of them holds a difference, so nothing
cancels where student and teacher are close.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

# A row of G shorter than this share of the longest is that of a dead channel, which has no correlations.
EPS = 1e-12


def squared_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Return sum_b ||G_student - G_teacher||_F^2 for maps (B, C, n) of as many channels."""
    _, channels, positions = student.shape
    if positions == teacher.shape[2] and 4 * positions <= channels:
        return _by_positions(_scaled(student), _scaled(teacher))
    return (_correlations(student) - _correlations(teacher)).square().sum()


def _scaled(features: Tensor) -> Tensor:
    """Return the maps at one length: G does not depend on it, but rounding does. So its own gradient is 0."""
    lengths = torch.linalg.vector_norm(features.detach(), dim=(1, 2), keepdim=True)
    return features / torch.where(lengths > 0, lengths, 1)


def _correlations(features: Tensor) -> Tensor:
    gram = torch.bmm(features, features.mT)
    norms: Tensor = torch.linalg.vector_norm(gram, dim=2, keepdim=True)
    return gram / norms.masked_fill(norms <= EPS * norms.detach().amax(1, keepdim=True), inf)


def _by_positions(student: Tensor, teacher: Tensor) -> Tensor:
    (own, own_gram), (theirs, _) = _normalised(student), _normalised(teacher)
    change, feature_change = own - theirs, student - teacher
    return (
        _inner(_gram(change, change), own_gram)
        + _inner(_gram(change, theirs), _gram(student, feature_change)) * 2
        + _inner(_gram(theirs, theirs), _gram(feature_change, feature_change))
    )


def _normalised(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return A and F^T F."""
    gram = _gram(features, features)
    squares = (torch.bmm(features, gram) * features).sum(2, keepdim=True)
    # Before the root, whose own gradient at 0 is infinite.
    dead = squares <= EPS**2 * squares.detach().amax(1, keepdim=True)
    return features / squares.masked_fill(dead, inf).sqrt(), gram


def _gram(left: Tensor, right: Tensor) -> Tensor:
    return torch.bmm(left.mT, right)


def _inner(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum()
