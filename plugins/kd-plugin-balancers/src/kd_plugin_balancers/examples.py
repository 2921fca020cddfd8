"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.testing import Example

WEIGHTS = {"ce": 1.0, "kd": 0.5}


def losses(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return a positive loss for each term."""
    return dict(zip(WEIGHTS, torch.rand(len(WEIGHTS), generator=generator) + 0.5, strict=True))


def with_model(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return the same with a loss that a model returns."""
    return {**losses(generator, batch), "detector.box": torch.rand((), generator=generator) + 0.5}


EXAMPLES = {
    "weighted_sum": [Example(inputs=with_model, terms={**WEIGHTS, "detector.box": None})],
    "static": [
        Example(inputs=losses, params={"kd_loss_weight": 0.3, "task_term": "ce"}),
        Example(name="all", inputs=losses, params={"kd_loss_weight": [0.25, 0.75]}),
    ],
    "uncertainty": [
        Example(inputs=losses, terms=WEIGHTS),
        Example(name="mixed", inputs=losses, terms=WEIGHTS, params={"form": {"kd": "regression"}, "init": 0.2}),
    ],
    "dwa": [Example(inputs=losses, terms=WEIGHTS)],
    "schedule": [
        Example(
            inputs=losses,
            terms=WEIGHTS,
            params={"schedules": {"kd": {"kind": "cosine", "start": 1.0, "end": 0.1}}},
        )
    ],
}
