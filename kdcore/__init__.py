"""kdcore: knowledge distillation in PyTorch, every method a plugin.

Importing this package imports no torch; names that need it are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kdcore.component import Component, Input, Kind, Paper, Role
from kdcore.errors import KdcoreError
from kdcore.hookspecs import hookimpl

if TYPE_CHECKING:
    from kdcore.compaction.compact import CompactModel, compact
    from kdcore.compaction.saved import load_compact
    from kdcore.config.create import create, make_loss
    from kdcore.config.load import load_config
    from kdcore.engine.run import run
    from kdcore.pipeline.build import build_objective
    from kdcore.pipeline.objective import Objective, ObjectiveOutput
    from kdcore.pipeline.step_counts import StepCounts
    from kdcore.plugins import register
    from kdcore.pruning.pruner import Pruner
    from kdcore.search.pareto import find_pareto_front
    from kdcore.search.search import Search, SearchResult

__version__ = "0.1.0"

_LAZY = {
    "compact": "kdcore.compaction.compact",
    "CompactModel": "kdcore.compaction.compact",
    "load_compact": "kdcore.compaction.saved",
    "create": "kdcore.config.create",
    "make_loss": "kdcore.config.create",
    "load_config": "kdcore.config.load",
    "register": "kdcore.plugins",
    "build_objective": "kdcore.pipeline.build",
    "Objective": "kdcore.pipeline.objective",
    "ObjectiveOutput": "kdcore.pipeline.objective",
    "StepCounts": "kdcore.pipeline.step_counts",
    "Pruner": "kdcore.pruning.pruner",
    "run": "kdcore.engine.run",
    "find_pareto_front": "kdcore.search.pareto",
    "Search": "kdcore.search.search",
    "SearchResult": "kdcore.search.search",
}

__all__ = [
    "CompactModel",
    "Component",
    "Input",
    "KdcoreError",
    "Kind",
    "Objective",
    "ObjectiveOutput",
    "Paper",
    "Pruner",
    "Role",
    "Search",
    "SearchResult",
    "StepCounts",
    "build_objective",
    "compact",
    "create",
    "find_pareto_front",
    "hookimpl",
    "load_compact",
    "load_config",
    "make_loss",
    "register",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'kdcore' has no attribute {name!r}")
