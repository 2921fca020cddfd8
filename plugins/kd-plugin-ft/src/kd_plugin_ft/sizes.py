"""Channels of adapters, from the shapes that a stage finds."""

from __future__ import annotations

from kdcore.contracts import Facts, TensorFacts


def check_channels(kernel_size: int, **channels: int | None) -> None:
    """Raise ValueError unless every number given is 1 or more and the kernel is odd."""
    for name, count in channels.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} must be 1 or more, found {count}")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size is {kernel_size}; it must be odd, so that the size of the map stays")


def channels_of(kind: str, facts: Facts, in_channels: int | None) -> int:
    """Return the channels of x; raises ValueError where they are not known, or contradict those given."""
    x = facts.inputs.get("x")
    if isinstance(x, TensorFacts):
        if len(x.shape) != 4:
            raise ValueError(f"x has shape {x.shape}; {kind} takes feature maps (B, C, H, W)")
        if in_channels not in (None, x.shape[1]):
            raise ValueError(f"in_channels is {in_channels} but x has shape {x.shape}; leave it out")
        return x.shape[1]
    if in_channels is None:
        raise ValueError(f"{kind} does not know its in_channels; bind x under inputs:, or give the param in_channels")
    return in_channels


def given_or_like(kind: str, facts: Facts, out_channels: int | None) -> int:
    """Return the channels given, or those of `like`; raises ValueError where neither is known."""
    if out_channels is not None:
        return out_channels
    if facts.like is None or len(facts.like.shape) != 4:
        raise ValueError(
            f"{kind} does not know its out_channels; give like:, the address of the paraphraser's encoder, or the "
            "param out_channels"
        )
    return facts.like.shape[1]
