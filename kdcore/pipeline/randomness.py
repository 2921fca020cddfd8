"""Seeds derived from names, and code that leaves the random generators as it found them."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch


def derive_seed(seed: int, *names: object) -> int:
    """Return a 63-bit seed that depends on `seed` and `names` only, the same on every machine."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch, those of accelerators too."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_generators(seed: int) -> None:
    """Seed the generators that a data set may use: Python's, NumPy's and torch's on the CPU.

    `torch.manual_seed` would also look for accelerators, which takes a hundred times as long and
    cannot be done in a forked worker.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def generator_states() -> dict[str, Any]:
    """Return the states of every generator as plain data and tensors, accelerators' too."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached),
        "torch": torch.default_generator.get_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
    }


def set_generator_states(states: Mapping[str, Any]) -> None:
    """Go on from what `generator_states` returned; accelerators that are not there are left out."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.default_generator.set_state(states["torch"])
    if states["cuda"] and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all(states["cuda"])


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Restore the generators of Python, NumPy and torch's CPU on leaving."""
    python, numpy, state = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.default_generator.set_state(state)


@contextlib.contextmanager
def forked_generators(seed: int | None = None) -> Iterator[None]:
    """Restore every generator on leaving, accelerators' too; seed them on entering, if a seed is given."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with kept_generators(), torch.random.fork_rng(devices=devices):
        if seed is not None:
            seed_everything(seed)
        yield
