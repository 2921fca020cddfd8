"""From the student's responses to the teacher's channels."""

from __future__ import annotations

from torch import Tensor, nn

from kd_plugin_ab.sizes import channels_of, check_channels
from kdcore.contracts import Facts
from kdcore.shapes import check_rank


class ABConnector(nn.Module):
    """A 1 x 1 convolution and batch normalisation to the channels of `like`.

    Heo, Lee, Yun, Choi: Knowledge Transfer via Distillation of Activation Boundaries, 2019, section 3.2.

    Arguments:
        in_channels: channels of x; taken from x unless given.
        out_channels: channels of the output; taken from `like` unless given.
        batch_norm: whether batch normalisation follows; without it the convolution has a bias.

    Called with x (B, in_channels, H, W); returns (B, out_channels, H, W).
    """

    def __init__(
        self, in_channels: int | None = None, out_channels: int | None = None, batch_norm: bool = True
    ) -> None:
        super().__init__()
        check_channels(in_channels=in_channels, out_channels=out_channels)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.batch_norm = batch_norm
        self.body: nn.Sequential | None = None
        if in_channels is not None and out_channels is not None:
            self._build(in_channels, out_channels)

    def setup(self, facts: Facts) -> None:
        """Create the layers from what is known of x and `like`; again with the same sizes it changes nothing.

        Raises ValueError where a size is not known or contradicts another.
        """
        sizes = channels_of("ab_connector", facts, self.in_channels, self.out_channels)
        if self.body is None:
            self._build(*sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the responses in the teacher's channels."""
        check_rank(4, 4, x=x)
        if self.body is None:
            raise ValueError("ab_connector was used before setup(facts); call setup first, or give both channels")
        return self.body(x)  # type: ignore[no-any-return]

    def _build(self, in_channels: int, out_channels: int) -> None:
        self.in_channels, self.out_channels = in_channels, out_channels
        self.body = nn.Sequential()
        self.body.add_module("conv", nn.Conv2d(in_channels, out_channels, 1, bias=not self.batch_norm))
        if self.batch_norm:
            self.body.add_module("bn", nn.BatchNorm2d(out_channels))
