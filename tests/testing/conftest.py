"""`kd` called inside this process, with a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from kdcore import plugins
from kdcore.cli.main import main


class Called(NamedTuple):
    """What one call of `kd` left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def kd(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Called]]:
    """Return a function that calls `kd`; what it loads is forgotten afterwards."""

    def call(*arguments: object) -> Called:
        plugins.registry.cache_clear()
        code = main([str(argument) for argument in arguments])
        return Called(code, *capsys.readouterr())

    yield call
    plugins.registry.cache_clear()
