"""Minifinetuning one distribution at a time, the correction in its two cases."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def corrected(p: Tensor, label: int, threshold: float) -> Tensor:
    """Mix the label into probabilities (C) until it leads by the threshold."""
    best = int(p.argmax())
    if best != label:
        behind = p[best] - p[label]
        share = (behind + threshold) / (1 + behind)
    else:
        ahead = p[label] - p[[c for c in range(len(p)) if c != label]].max()
        share = (threshold - ahead) / (1 - ahead) if ahead < threshold else torch.zeros_like(ahead)
    return (1 - share) * p + share * F.one_hot(torch.tensor(label), len(p))


def mft(student: Tensor, teacher: Tensor, target: Tensor, threshold: float, temperature: float) -> Tensor:
    """Average the divergence over distributions (N, C)."""
    losses = []
    for s, t, y in zip(student, teacher, target.tolist(), strict=True):
        p, log_q = corrected((t / temperature).softmax(-1), y, threshold), (s / temperature).log_softmax(-1)
        losses.append(sum(p[c] * (p[c].log() - log_q[c]) for c in range(len(p)) if p[c] > 0))
    return temperature**2 * torch.stack(losses).mean()


def mft_at_once(student: Tensor, teacher: Tensor, target: Tensor, threshold: float, temperature: float) -> Tensor:
    """The same over all distributions at once, as a training loop would write it."""
    p = (teacher / temperature).softmax(-1)
    label = F.one_hot(target, p.shape[-1])
    (first, second), best = p.topk(2).values.unbind(-1), p.argmax(-1)
    own = (p * label).sum(-1)
    wrong = (first - own + threshold) / (1 + first - own)
    right = (threshold - (own - second)).clamp(min=0) / (1 - (own - second))
    share = torch.where(best == target, right, wrong).unsqueeze(-1)
    q = (1 - share) * p + share * label
    return temperature**2 * F.kl_div((student / temperature).log_softmax(-1), q, reduction="batchmean")
