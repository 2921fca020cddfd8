"""The random generators that a component may draw from."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Seed Python's, numpy's and torch's generators, of torch's that of the CPU, and put them back."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        # torch.manual_seed takes a hundred times as long: it also seeds devices, and notes the stack for absent ones.
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
