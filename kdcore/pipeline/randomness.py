"""Seeds derived from names, and code that leaves the random generators as it found them."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def derive_seed(seed: int, *names: object) -> int:
    """Return a 63-bit seed that depends on `seed` and `names` only, the same on every machine."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def forked_generators(seed: int | None = None) -> Iterator[None]:
    """Restore every generator on leaving; seed them on entering, if a seed is given."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            if seed is not None:
                seed_everything(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
