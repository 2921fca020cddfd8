"""Pruning while training: layers, patterns, schedules, selection, and the Pruner that joins them.

Importing this package imports no torch; names that need it are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kdcore.pruning.config import Mistake, PruningGroup, ScheduleConfig, group_mistakes
from kdcore.pruning.pattern import Pattern, PatternError

if TYPE_CHECKING:
    from kdcore.pruning.blocks import Blocks
    from kdcore.pruning.buffers import Buffers
    from kdcore.pruning.layers import PrunedLayer
    from kdcore.pruning.pruner import Pruner
    from kdcore.pruning.sparsity import Sparsity

_LAZY = {
    "Blocks": "kdcore.pruning.blocks",
    "Buffers": "kdcore.pruning.buffers",
    "PrunedLayer": "kdcore.pruning.layers",
    "Pruner": "kdcore.pruning.pruner",
    "Sparsity": "kdcore.pruning.sparsity",
}

__all__ = [
    "Blocks",
    "Buffers",
    "Mistake",
    "Pattern",
    "PatternError",
    "PrunedLayer",
    "Pruner",
    "PruningGroup",
    "ScheduleConfig",
    "Sparsity",
    "group_mistakes",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'kdcore.pruning' has no attribute {name!r}")
