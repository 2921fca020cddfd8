"""Channels of adapters, from the shapes that a stage finds."""

from __future__ import annotations

from kdcore.contracts import Facts, TensorFacts


def check_channels(**channels: int | None) -> None:
    """Raise ValueError unless every number given is 1 or more."""
    for name, count in channels.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} must be 1 or more, found {count}")


def channels_of(kind: str, facts: Facts, in_channels: int | None, out_channels: int | None) -> tuple[int, int]:
    """Return the channels of x and of the output.

    Raises ValueError where one is not known, or x is no feature map or contradicts what was given.
    """
    x = facts.inputs.get("x")
    if isinstance(x, TensorFacts):
        if len(x.shape) != 4:
            raise ValueError(f"x has shape {x.shape}; {kind} takes feature maps (B, C, H, W)")
        if in_channels not in (None, x.shape[1]):
            raise ValueError(f"in_channels is {in_channels} but x has shape {x.shape}; leave in_channels out")
        in_channels = x.shape[1]
    if out_channels is None and facts.like is not None and len(facts.like.shape) > 1:
        out_channels = facts.like.shape[1]
    if in_channels is None:
        raise ValueError(f"{kind} does not know its in_channels; bind x under inputs:, or give the param in_channels")
    if out_channels is None:
        raise ValueError(
            f"{kind} does not know its out_channels; give like:, the address of the map to imitate, or the param "
            "out_channels"
        )
    return in_channels, out_channels
