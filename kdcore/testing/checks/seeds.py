"""The random generators belong to the run: a component draws from them and does not set them."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from kdcore.component import Kind
from kdcore.testing.check import ALL, CALLED, check
from kdcore.testing.randomness import seeded
from kdcore.testing.result import Finding
from kdcore.testing.subject import Subject

SEEDS = (1, 2)


@check(ALL, "built or called, it seeds no global generator", after=("finite", "samples"))
def seeds_nothing(subject: Subject) -> None:
    """Build, call and read it under two seeds, and see that the generators stand at different places then."""
    _check(lambda: subject.set_up(subject.construct()), "built")
    if subject.kind is Kind.DATASET:
        data = subject.build()
        _check(lambda: data[0], "read")
    if subject.kind in CALLED:
        built, inputs = subject.build(), subject.inputs()
        _check(lambda: built(inputs) if subject.kind is Kind.BALANCER else built(**inputs), "called")


def _check(use: Callable[[], Any], how: str) -> None:
    states = []
    for seed in SEEDS:
        with seeded(seed):
            use()
            states.append(_generators())
    for name, state in states[0].items():
        if state == states[1][name]:
            raise Finding(
                f"{how} under two seeds it leaves {name} generator in one state: it seeds it, so that everything that "
                "is drawn afterwards repeats, in every step and whatever the run's seed. Draw from the generator as it "
                "is, or from a torch.Generator() of your own"
            )


def _generators() -> dict[str, bytes]:
    """Return the state of each global generator."""
    return {
        "torch's global": pickle.dumps(torch.default_generator.get_state().numpy()),
        "numpy's global": pickle.dumps(np.random.get_state()),
        "Python's global": pickle.dumps(random.getstate()),
    }
