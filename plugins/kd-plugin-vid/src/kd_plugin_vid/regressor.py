"""From the student's features to a Gaussian over the teacher's."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugin_vid.sizes import channels_of, check_channels
from kdcore.contracts import Facts
from kdcore.shapes import check_rank


class VIDRegressor(nn.Module):
    """Predicts the features of `like` by 1 x 1 convolutions, with one learned variance per channel.

        mean      three convolutions without bias, ReLU between them
        variance  log(1 + exp(a_c)) + eps, a_c learned

    Ahn, Hu, Damianou, Lawrence, Dai: Variational Information Distillation, 2019, equations 6 and 7.

    Arguments:
        in_channels: channels of x; taken from x unless given.
        out_channels: channels of the prediction; taken from `like` unless given.
        hidden_channels: channels between the convolutions; out_channels unless given.
        initial_variance: the variance that training starts from, above eps.
        eps: the least variance, above 0.

    Called with x (B, in_channels, H, W); returns a dict of `mean` (B, out_channels, H, W) and `variance`
    (1, out_channels, 1, 1), addressed as `<name>#mean` and `<name>#variance`.
    """

    def __init__(
        self,
        in_channels: int | None = None,
        out_channels: int | None = None,
        hidden_channels: int | None = None,
        initial_variance: float = 5.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        check_channels(in_channels=in_channels, out_channels=out_channels, hidden_channels=hidden_channels)
        if not eps > 0:
            raise ValueError(f"eps is {eps}; it must be above 0")
        if not initial_variance > eps:
            raise ValueError(f"initial_variance is {initial_variance}; it must be above eps, {eps}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.hidden_channels = hidden_channels
        self.initial_variance = initial_variance
        self.eps = eps
        self.body: nn.Sequential | None = None
        self.register_parameter("raw_variance", None)
        if in_channels is not None and out_channels is not None:
            self._build(in_channels, out_channels)

    def setup(self, facts: Facts) -> None:
        """Create the parameters from what is known of x and `like`; again with the same sizes it changes nothing.

        Raises ValueError where a size is not known or contradicts another.
        """
        sizes = channels_of("vid_regressor", facts, self.in_channels, self.out_channels)
        if self.body is None:
            self._build(*sizes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return mean and variance."""
        check_rank(4, 4, x=x)
        if self.body is None:
            raise ValueError("vid_regressor was used before setup(facts); call setup first, or give both channels")
        return {"mean": self.body(x), "variance": (F.softplus(self.raw_variance) + self.eps).view(1, -1, 1, 1)}

    def _build(self, in_channels: int, out_channels: int) -> None:
        hidden = self.hidden_channels or out_channels
        self.in_channels, self.out_channels = in_channels, out_channels
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
        )
        # The inverse of softplus, in a form that does not overflow.
        above = self.initial_variance - self.eps
        self.raw_variance = nn.Parameter(torch.full((out_channels,), above + math.log(-math.expm1(-above))))
