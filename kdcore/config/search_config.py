"""The section `search:`, checked: what is searched, for what, and how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdcore.config.config import Part
from kdcore.errors import Place
from kdcore.search.objectives import Constraint, Objective
from kdcore.search.space import Space


@dataclass(frozen=True)
class FinalConfig:
    """Which of the found points are distilled in full: `best`, `knee` or all of the `front`, at most so many."""

    choose: str = "front"
    at_most: int = 3
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class HalvingConfig:
    """When trials are compared first, and by which factor fewer of them go on."""

    after_epochs: int = 1
    factor: int = 3


@dataclass(frozen=True)
class SearchConfig:
    """A search; paths of `space`, `trial` and `final.overrides` are those that `--set` takes."""

    searcher: Part
    space: Space
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()
    max_trials: int | None = None
    timeout_s: float | None = None
    jobs: int = 1
    trial: Mapping[str, Any] = field(default_factory=dict)
    final: FinalConfig | None = None
    stop_early: HalvingConfig | None = None
    storage: str | None = None
    place: Place = Place()
