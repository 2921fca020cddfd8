"""Scores as Neural Compressor computed them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    """Weights, gradients and scores of Neural Compressor 2.2.1 and 2.6.1."""
    return torch.load(Path(__file__).with_name("neural_compressor.pt"), weights_only=True)
