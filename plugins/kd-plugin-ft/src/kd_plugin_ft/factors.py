"""The paraphraser of the teacher's features, and the translator of the student's."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from kd_plugin_ft.sizes import channels_of, check_channels, given_or_like
from kdcore.contracts import Facts
from kdcore.shapes import check_rank

SLOPE = 0.1


class Paraphraser(nn.Module):
    """An autoencoder of the teacher's features, whose `encoder` yields the factors.

    Each half is three convolutions with batch normalisation and a leaky ReLU; the encoder leads from C to
    rate x C channels, the decoder, of transposed convolutions, back. Trained by `mse` between its output
    and its input; then `<name>:encoder` addresses the factors, and the decoder no longer runs.

    Kim, Park, Kwak: Paraphrasing Complex Network, 2018, section 3.1.

    Arguments:
        rate: channels of the factors as a share of those of x, above 0.
        in_channels: channels of x; taken from x unless given.
        kernel_size: odd, of the convolutions.
        batch_norm: whether each convolution is followed by batch normalisation.

    Called with x (B, C, H, W); returns its reconstruction.
    """

    def __init__(
        self, rate: float = 0.5, in_channels: int | None = None, kernel_size: int = 3, batch_norm: bool = True
    ) -> None:
        super().__init__()
        if not rate > 0:
            raise ValueError(f"rate is {rate}; it must be above 0")
        check_channels(kernel_size, in_channels=in_channels)
        self.rate = rate
        self.in_channels = in_channels
        self.kernel_size = kernel_size
        self.batch_norm = batch_norm
        self.encoder: nn.Sequential | None = None
        self.decoder: nn.Sequential | None = None
        if in_channels is not None:
            self._build(in_channels)

    def setup(self, facts: Facts) -> None:
        """Create the layers from what is known of x; again with the same channels it changes nothing.

        Raises ValueError where the channels are not known or contradict those given.
        """
        channels = channels_of("ft_paraphraser", facts, self.in_channels)
        if self.encoder is None:
            self._build(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return x encoded and decoded."""
        check_rank(4, 4, x=x)
        if self.encoder is None or self.decoder is None:
            raise ValueError("ft_paraphraser was used before setup(facts); call setup first, or give in_channels")
        return self.decoder(self.encoder(x))  # type: ignore[no-any-return]

    def _build(self, channels: int) -> None:
        self.in_channels = channels
        factors = max(int(channels * self.rate), 1)
        self.encoder = _layers(nn.Conv2d, [channels, channels, factors, factors], self.kernel_size, self.batch_norm)
        self.decoder = _layers(
            nn.ConvTranspose2d, [factors, factors, channels, channels], self.kernel_size, self.batch_norm
        )


class Translator(nn.Module):
    """Three convolutions, with batch normalisation and leaky ReLU, from the student's features to factors.

    Kim, Park, Kwak: Paraphrasing Complex Network, 2018, section 3.2.

    Arguments:
        in_channels: channels of x; taken from x unless given.
        out_channels: channels of the factors; taken from `like` unless given.
        kernel_size: odd, of the convolutions.
        batch_norm: whether each convolution is followed by batch normalisation.

    Called with x (B, C, H, W); returns factors (B, out_channels, H, W).
    """

    def __init__(
        self,
        in_channels: int | None = None,
        out_channels: int | None = None,
        kernel_size: int = 3,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        check_channels(kernel_size, in_channels=in_channels, out_channels=out_channels)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.batch_norm = batch_norm
        self.body: nn.Sequential | None = None
        if in_channels is not None and out_channels is not None:
            self._build(in_channels, out_channels)

    def setup(self, facts: Facts) -> None:
        """Create the layers from what is known of x and `like`; again with the same sizes it changes nothing.

        Raises ValueError where a size is not known or contradicts another.
        """
        sizes = (
            channels_of("ft_translator", facts, self.in_channels),
            given_or_like("ft_translator", facts, self.out_channels),
        )
        if self.body is None:
            self._build(*sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the student's factors."""
        check_rank(4, 4, x=x)
        if self.body is None:
            raise ValueError("ft_translator was used before setup(facts); call setup first, or give both channels")
        return self.body(x)  # type: ignore[no-any-return]

    def _build(self, in_channels: int, out_channels: int) -> None:
        self.in_channels, self.out_channels = in_channels, out_channels
        channels = [in_channels, in_channels, out_channels, out_channels]
        self.body = _layers(nn.Conv2d, channels, self.kernel_size, self.batch_norm)


def _layers(
    convolution: type[nn.Conv2d | nn.ConvTranspose2d], channels: list[int], kernel_size: int, batch_norm: bool
) -> nn.Sequential:
    body = nn.Sequential()
    for before, after in pairwise(channels):
        body.append(convolution(before, after, kernel_size, padding=kernel_size // 2))
        if batch_norm:
            body.append(nn.BatchNorm2d(after))
        body.append(nn.LeakyReLU(SLOPE))
    return body
