"""Weights that follow how fast each term falls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kd_plugin_balancers.terms import Terms
from kdcore.contracts import Facts


class DWABalancer(nn.Module):
    r"""Dynamic weight average: terms that fell least over the last two epochs weigh most.

    `sum_k lambda_k w_k L_k` with `lambda_k = K exp(r_k / T) / sum_i exp(r_i / T)` and
    `r_k = mean L_k(t - 1) / mean L_k(t - 2)` over the steps of the last two epochs, K terms, w_k the
    weight of the config. In the first two epochs every lambda_k is 1.

    Liu, Johns, Davison: End-to-End Multi-Task Learning with Attention, 2019, equation 7. The weights
    w_k are ours; they leave the ratios alone.

    The means grow in training with gradient enabled only, and leave out values that are not finite.
    A ratio that does not exist (a mean of 0 or without values) counts as 1. The means of all
    processes are joined when an epoch ends. `progress` tells where that is.

    Arguments:
        terms: the weight of each term; None, for a loss that a model returns, stands for 1.
        temperature: T > 0; higher keeps the weights closer to each other.

    Raises:
        ValueError: the temperature is not positive, or the terms of a step are not those of `terms`.
    """

    weights: Tensor
    factors: Tensor
    sums: Tensor
    counts: Tensor
    means: Tensor
    epoch: Tensor

    def __init__(self, terms: Mapping[str, float | None], temperature: float = 2.0) -> None:
        super().__init__()
        self.terms = Terms(terms)
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, found {temperature}")
        self.temperature = temperature
        self.num_processes = 1
        count = len(self.terms.names)
        self.register_buffer("weights", torch.tensor(self.terms.weights), persistent=False)
        self.register_buffer("factors", torch.ones(count))
        self.register_buffer("sums", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(count, dtype=torch.float64))
        # The last epoch's means, then those of the one before; NaN until there are any.
        self.register_buffer("means", torch.full((2, count), torch.nan, dtype=torch.float64))
        self.register_buffer("epoch", torch.full((1,), -1))
        self._epoch: int | None = -1

    def setup(self, facts: Facts) -> None:
        """Learn how many processes train together."""
        self.num_processes = facts.num_processes

    def progress(self, step: int, total_steps: int, epoch: int) -> None:
        """Set new weights where an epoch ended."""
        if self._epoch is None:
            self._epoch = int(self.epoch)  # waits for the device, once after loading
        if epoch == self._epoch:
            return
        if self._epoch >= 0:
            self._end_epoch()
        self._epoch = epoch
        self.epoch.fill_(epoch)

    def forward(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the balanced sum of the scalars in `terms`."""
        losses = self.terms.stacked(terms, training=self.training)
        if self.training and torch.is_grad_enabled():
            self._record(losses.detach())
        return (self.factors * self.weights * losses).sum()

    def extra_repr(self) -> str:
        """Show the terms and the temperature."""
        return f"{', '.join(self.terms.names)}; temperature={self.temperature:g}"

    def _record(self, losses: Tensor) -> None:
        finite = losses.isfinite()
        self.sums += torch.where(finite, losses, 0)
        self.counts += finite

    @torch.no_grad()
    def _end_epoch(self) -> None:
        if self.num_processes > 1:
            torch.distributed.all_reduce(self.sums)
            torch.distributed.all_reduce(self.counts)
        # Without a host's look at the device: an epoch without any step changes nothing.
        trained = self.counts.any()
        self.means.copy_(torch.where(trained, torch.stack([self.sums / self.counts, self.means[0]]), self.means))
        ratios = self.means[0] / self.means[1]
        ratios = torch.where(ratios.isfinite(), ratios, 1)
        self.factors.copy_(len(ratios) * torch.softmax(ratios / self.temperature, dim=0))
        self.sums.zero_()
        self.counts.zero_()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._epoch = None
