"""The hooks a plugin may implement: nine that offer components, three that follow a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from kdcore.component import Component

PROJECT = "kdcore"
ENTRY_POINT_GROUP = "kdcore.plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def losses() -> list[Component]:  # type: ignore[empty-body]
    """Offer losses: `nn.Module`s whose `forward(**inputs)` returns a scalar or `(sum, count)`."""


@hookspec
def wrappers() -> list[Component]:  # type: ignore[empty-body]
    """Offer wrappers: built with `make_loss`, a factory of the loss they change, and called like it."""


@hookspec
def balancers() -> list[Component]:  # type: ignore[empty-body]
    """Offer balancers: built with `terms` (name to weight), they turn named terms into one scalar."""


@hookspec
def criteria() -> list[Component]:  # type: ignore[empty-body]
    """Offer pruning criteria: `update` learns from gradients, `score` says how much each weight or block matters."""


@hookspec
def output_extractors() -> list[Component]:  # type: ignore[empty-body]
    """Offer output extractors: `(output, batch) -> Extracted(value, named, losses)`."""


@hookspec
def searchers() -> list[Component]:  # type: ignore[empty-body]
    """Offer searchers: `suggest()` proposes a point, `feedback(point, metrics)` learns from it."""


@hookspec
def adapters() -> list[Component]:  # type: ignore[empty-body]
    """Offer adapters: `nn.Module`s fed by captured tensors."""


@hookspec
def models() -> list[Component]:  # type: ignore[empty-body]
    """Offer models: callables that return an `nn.Module`."""


@hookspec
def datasets() -> list[Component]:  # type: ignore[empty-body]
    """Offer datasets: callables that return a map-style dataset of dict samples."""


@hookspec
def run_started(folder: Path, config: dict[str, Any]) -> None:
    """A run begins in `folder` with the resolved `config`."""


@hookspec
def epoch_ended(folder: Path, stage: str, epoch: int, metrics: dict[str, float]) -> None:
    """An epoch of `stage` ended with `metrics`, under their full names such as `val/student/accuracy`."""


@hookspec
def run_ended(folder: Path, status: str) -> None:
    """A run ended: `status` is `completed`, `interrupted` or `failed`."""
