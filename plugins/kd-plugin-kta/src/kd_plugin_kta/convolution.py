"""Convolutions from the student's channels to those that it is compared in."""

from __future__ import annotations

from torch import Tensor, nn

from kdcore.contracts import Facts, TensorFacts
from kdcore.shapes import check_rank


class AffinityAdapter(nn.Module):
    """A convolution that keeps the size.

    He et al.: Knowledge Adaptation for Efficient Semantic Segmentation, 2019, section 3.3.

    Arguments:
        in_channels: channels of x; taken from x unless given.
        out_channels: channels of the output; taken from `like` unless given.
        kernel_size: odd.

    Called with x (B, in_channels, H, W); returns (B, out_channels, H, W).
    """

    name = "affinity_adapter"

    def __init__(self, in_channels: int | None = None, out_channels: int | None = None, kernel_size: int = 3) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "kernel_size": kernel_size}
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise ValueError(f"{name} must be 1 or more, found {size}")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}; it must be odd, so that the size stays")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.body: nn.Module | None = None
        if in_channels is not None and out_channels is not None:
            self.body = self.build(in_channels, out_channels)

    def build(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return the convolution."""
        return nn.Conv2d(in_channels, out_channels, self.kernel_size, padding=self.kernel_size // 2)

    def setup(self, facts: Facts) -> None:
        """Create the convolution; raises ValueError where channels are unknown or differ from what exists."""
        x = facts.inputs["x"]
        if not isinstance(x, TensorFacts) or len(x.shape) != 4:
            shape = x.shape if isinstance(x, TensorFacts) else type(x).__name__
            raise ValueError(f"x is {shape}; {self.name} needs one feature map (B, C, H, W)")
        if self.in_channels not in (None, x.shape[1]):
            raise ValueError(f"in_channels is {self.in_channels} but x has shape {x.shape}; leave in_channels out")
        if self.out_channels is None:
            if facts.like is None or len(facts.like.shape) < 2:
                raise ValueError(f"{self.name} does not know its out_channels; give like:, or the param out_channels")
            self.out_channels = facts.like.shape[1]
        self.in_channels = x.shape[1]
        if self.body is None:
            self.body = self.build(self.in_channels, self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map in its new channels."""
        if self.body is None:
            raise ValueError(f"{self.name} was used before setup(facts) created its weights; call it, or give channels")
        check_rank(4, 4, x=x)
        return self.body(x)  # type: ignore[no-any-return]


class KTAAdapter(AffinityAdapter):
    """A convolution that keeps the size, batch normalisation and ReLU.

    He et al.: Knowledge Adaptation for Efficient Semantic Segmentation, 2019, section 3.2.

    Arguments:
        in_channels: channels of x; taken from x unless given.
        out_channels: channels of the output; taken from `like` unless given.
        kernel_size: odd.

    Called with x (B, in_channels, H, W); returns (B, out_channels, H, W).
    """

    name = "kta_adapter"

    def build(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return the convolution and what follows it."""
        padding = self.kernel_size // 2
        convolution = nn.Conv2d(in_channels, out_channels, self.kernel_size, padding=padding, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())
