"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.contracts import Facts, TensorFacts
from kdcore.testing import Example


def gaussian(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return a mean with one variance per channel, and features."""
    mean, teacher = (torch.randn(batch, 3, 2, 2, generator=generator) for _ in range(2))
    return {"mean": mean, "variance": 0.5 + torch.rand(1, 3, 1, 1, generator=generator), "teacher": teacher}


def certain(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return a mean that is right."""
    made = gaussian(generator, batch)
    return {**made, "mean": made["teacher"].clone()}


def x(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return the student's feature maps."""
    return {"x": torch.randn(batch, 3, 4, 4, generator=generator)}


EXAMPLES = {
    "vid": [
        Example(
            inputs=gaussian,
            equal=certain,
            learns=("mean", "variance"),
            batch_dims={"variance": None},
            skip={
                **dict.fromkeys(
                    ("zeros", "dead_channels", "gradient_bounded"),
                    "the variance must be above 0, which the regressor sees to",
                ),
                **dict.fromkeys(("equal_value", "equal_gradient"), "a smaller variance costs less still"),
            },
        ),
        Example(
            name="known_variance",
            inputs=gaussian,
            learns=("mean",),
            batch_dims={"variance": None},
            skip={"equal_value": "the logarithm of the variance remains"},
        ),
    ],
    "vid_regressor": [Example(inputs=x, facts=Facts(like=TensorFacts((4, 6, 4, 4), torch.float32)))],
}
