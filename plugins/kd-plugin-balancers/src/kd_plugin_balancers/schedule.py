"""Weights that change with the progress of the stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kd_plugin_balancers.curve import Curve, curve_problems
from kd_plugin_balancers.names import name_problem
from kd_plugin_balancers.terms import Terms


class ScheduleBalancer(nn.Module):
    r"""Multiply the weights of the config by curves over the progress of the stage.

    `sum_i f_i(p) w_i L_i` with p = step / total_steps, w_i the weight of the config and f_i = 1 for
    terms without a schedule. With u = (p - from) / (to - from), held between 0 and 1:

        linear      start + (end - start) u
        cosine      start + (end - start) (1 - cos(pi u)) / 2
        step        start while p < from, then end
        constant    start

    Arguments:
        terms: the weight of each term; None, for a loss that a model returns, stands for 1.
        schedules: by term a mapping with `kind`, `start`, `end`, `from` (0) and `to` (1).

    Raises:
        ValueError: a schedule names an unknown term or makes no sense, or `progress` is not told
            the number of steps.
    """

    weights: Tensor
    factors: Tensor

    def __init__(self, terms: Mapping[str, float | None], schedules: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        self.terms = Terms(terms)
        for name, spec in schedules.items():
            problem = name_problem(name, terms, more_terms=False) or next(curve_problems(spec), None)
            if problem is not None:
                raise ValueError(f"the schedule of {name}: {problem}")
        self.curves = {self.terms.names.index(name): Curve.read(spec) for name, spec in schedules.items()}
        self.register_buffer("weights", torch.tensor(self.terms.weights), persistent=False)
        self.register_buffer("factors", torch.ones(len(terms)))
        self.progress(0, 1, 0)

    def progress(self, step: int, total_steps: int, epoch: int) -> None:
        """Set the weights for what comes after `step` of `total_steps` steps."""
        if not total_steps or total_steps < 0:
            raise ValueError(f"schedule needs the number of steps of the stage, found total_steps={total_steps}")
        for index, curve in self.curves.items():
            # Filling takes the number along with the command, so the device is not waited for.
            self.factors[index].fill_(curve.at(step / total_steps))

    def forward(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the scalars in `terms` with the weights of this moment."""
        losses = self.terms.stacked(terms, training=self.training)
        return (self.factors * self.weights * losses).sum()

    def extra_repr(self) -> str:
        """Show the curves."""
        return ", ".join(f"{self.terms.names[index]}={curve}" for index, curve in self.curves.items())
