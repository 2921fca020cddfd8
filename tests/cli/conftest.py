"""A small config, and `kd` called inside this process with a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kdcore import plugins
from kdcore.cli.main import main

CONFIG = """\
version: 1
name: tiny
data:
  train: {type: digits, params: {split: train}, batch_size: 64, shuffle: true}
models:
  teacher: {type: digits_mlp, weights: as_built}
  student: {type: digits_mlp}
stages:
  - name: distill
    epochs: 1
    steps_per_epoch: 2
    train: [student]
    losses:
      kd: {type: kd, weight: 0.9, params: {temperature: 4}}
    optimizer: {type: SGD, params: {lr: 0.1}}
"""


class Called(NamedTuple):
    """What one call of `kd` left behind."""

    code: int
    out: str
    err: str


Kd = Callable[..., Called]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a valid config in a file."""
    file = tmp_path / "kd.yaml"
    file.write_text(CONFIG, encoding="utf-8")
    return file


@pytest.fixture
def kd(capsys: pytest.CaptureFixture[str]) -> Iterator[Kd]:
    """Return a function that calls `kd`; what it loads is forgotten afterwards."""

    def call(*arguments: object) -> Called:
        plugins.registry.cache_clear()
        code = main([str(argument) for argument in arguments])
        return Called(code, *capsys.readouterr())

    yield call
    plugins.registry.cache_clear()
