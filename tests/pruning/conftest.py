"""A small model, fixed scores, and what Neural Compressor computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    """Schedules, masks and penalties of Neural Compressor 2.6.1."""
    return torch.load(Path(__file__).with_name("neural_compressor.pt"), weights_only=True)


class Three(nn.Module):
    """The layers of the reference cases."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(16, 8)
        self.conv = nn.Conv2d(4, 8, 3)
        self.fc2 = nn.Linear(8, 8)


@pytest.fixture
def three() -> nn.Module:
    """Two Linear layers and a convolution, in float64."""
    return Three().double()


class Fixed:
    """A criterion that says what it was told."""

    needs_gradients = False

    def __init__(self, scores: dict[str, torch.Tensor]) -> None:
        self.scores = scores

    def score(self, name, weight, blocks):
        """Return the scores told for a weight."""
        return self.scores[name.removesuffix(".weight")]

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@pytest.fixture
def fixed() -> type[Fixed]:
    """The class of criteria with fixed scores."""
    return Fixed


@pytest.fixture
def network() -> nn.Module:
    """A convolution, a normalisation, a hidden layer and a classifier, over 4 channels of 4 x 4."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 16),
        nn.ReLU(),
        nn.Linear(16, 10),
    )


@pytest.fixture
def train():
    """Train a network under a Pruner for some steps."""

    def run(model, pruner, optimizer, steps, first=0, shape=(4, 4, 4), classes=10):
        for step in range(first, first + steps):
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(8, *shape, generator=generator)
            y = torch.randint(classes, (8,), generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            pruner.before_optimizer()
            optimizer.step()
            pruner.after_optimizer()

    return run
