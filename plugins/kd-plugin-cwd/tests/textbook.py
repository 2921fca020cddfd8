"""Channel-wise distillation as the paper writes it, channel by channel."""

from __future__ import annotations

from torch import Tensor


def cwd(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Average the divergence over the channels and the batch, for maps (B, C, *spatial)."""
    rows = [(maps.flatten(2) / temperature).softmax(-1).flatten(0, 1) for maps in (student, teacher)]
    losses = [(p * (p / q).log()).sum() for q, p in zip(*rows, strict=True)]
    return temperature**2 * sum(losses[1:], start=losses[0]) / len(losses)


def cwd_at_once(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """The same over all channels at once, as most loops write it."""
    q, p = ((maps.flatten(2) / temperature).softmax(-1) for maps in (student, teacher))
    return temperature**2 * (p * (p / q).log()).sum(-1).mean()
