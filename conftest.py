"""One thread per test process, and random numbers that every test finds in the same state."""

from __future__ import annotations

import os
import random

# Before anything imports torch, which reads them once: several processes that each use every core slow each other
# down, and a fork of one may hang.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import numpy
import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--seed`, with which a test that leans on lucky numbers is found."""
    parser.addoption("--seed", type=int, default=0, help="seed of the random numbers of every test")


@pytest.fixture(autouse=True)
def same_random_numbers(request: pytest.FixtureRequest) -> None:
    """Seed Python's, NumPy's and torch's generators, so that no test depends on those that ran before it."""
    number: int = request.config.getoption("--seed")
    random.seed(number)
    numpy.random.seed(number)
    torch.manual_seed(number)
