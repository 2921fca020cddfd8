"""What a launcher such as torchrun says about the processes of a run, in the environment."""

from __future__ import annotations

import os


def process_count() -> int:
    """Return how many processes were started together."""
    return _number("WORLD_SIZE", 1)


def process_rank() -> int:
    """Return which of them this one is, counted from 0."""
    return _number("RANK", 0)


def processes_here() -> int:
    """Return how many of them are on this machine; 0 if the launcher does not say."""
    return _number("LOCAL_WORLD_SIZE", 0) or (1 if process_count() == 1 else 0)


def is_first_here() -> bool:
    """Whether this is the first process on its machine, the one that speaks for those that fail alike."""
    return process_count() == 1 or _number("LOCAL_RANK", 0) == 0


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default
