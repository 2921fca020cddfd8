"""Decoupled knowledge distillation as the paper writes it: probabilities first, then their logarithms."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def dkd(student: Tensor, teacher: Tensor, target: Tensor, alpha: float, beta: float, temperature: float) -> Tensor:
    """Equation 7 over distributions (N, C), times the squared temperature of the authors' code."""
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    chosen = F.one_hot(target, p.shape[-1]).bool()
    p_target, q_target = p[chosen], q[chosen]
    target_class = p_target * (p_target / q_target).log()
    target_class = target_class + (1 - p_target) * ((1 - p_target) / (1 - q_target)).log()
    p_others, q_others = (each[~chosen].view(len(each), -1) for each in (p, q))
    p_others = p_others / p_others.sum(-1, keepdim=True)
    q_others = q_others / q_others.sum(-1, keepdim=True)
    other_classes = (p_others * (p_others / q_others).log()).sum(-1)
    return temperature**2 * (alpha * target_class + beta * other_classes).mean()
