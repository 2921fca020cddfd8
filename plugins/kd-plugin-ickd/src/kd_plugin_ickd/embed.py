"""From the student's channels to the teacher's."""

from __future__ import annotations

from torch import Tensor, nn

from kd_plugin_ickd.sizes import channels_of, check_channels
from kdcore.contracts import Facts
from kdcore.shapes import check_rank


class ICKDEmbed(nn.Module):
    """A convolution and batch normalisation to the channels of `like`; the size of the map stays.

    Liu et al.: Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation,
    2021, section 3.3.

    Arguments:
        in_channels: channels of x; taken from x unless given.
        out_channels: channels of the output; taken from `like` unless given.
        kernel_size: odd, of the convolution.

    Called with x (B, in_channels, H, W); returns (B, out_channels, H, W).
    """

    def __init__(self, in_channels: int | None = None, out_channels: int | None = None, kernel_size: int = 3) -> None:
        super().__init__()
        check_channels(in_channels=in_channels, out_channels=out_channels)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}; it must be odd, so that the size of the map stays")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.body: nn.Sequential | None = None
        if in_channels is not None and out_channels is not None:
            self._build(in_channels, out_channels)

    def setup(self, facts: Facts) -> None:
        """Create the layers from what is known of x and `like`; again with the same sizes it changes nothing.

        Raises ValueError where a size is not known or contradicts another.
        """
        sizes = channels_of("ickd_embed", facts, self.in_channels, self.out_channels)
        if self.body is None:
            self._build(*sizes)
        elif (self.in_channels, self.out_channels) != sizes:
            raise ValueError(
                f"ickd_embed leads from {self.in_channels} to {self.out_channels} channels and cannot change to "
                f"{sizes[0]} and {sizes[1]}; use one adapter per shape"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the map embedded."""
        check_rank(4, 4, x=x)
        if self.body is None:
            raise ValueError("ickd_embed was used before setup(facts); call setup first, or give both channels")
        return self.body(x)  # type: ignore[no-any-return]

    def _build(self, in_channels: int, out_channels: int) -> None:
        self.in_channels, self.out_channels = in_channels, out_channels
        self.body = nn.Sequential()
        convolution = nn.Conv2d(in_channels, out_channels, self.kernel_size, padding=self.kernel_size // 2, bias=False)
        self.body.add_module("conv", convolution)
        self.body.add_module("bn", nn.BatchNorm2d(out_channels))
