"""The names of the metrics that a run will have, as far as its config tells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdcore.config.config import StageConfig
from kdcore.config.stages import metric_name


def metric_names(stages: Iterable[StageConfig]) -> list[str]:
    """Return the full names of what the stages yield, each once: `val`, `train`, and `sparsity` where one prunes.

    Losses that a model returns itself, named `<split>/losses/<model>.<key>`, are not among them.
    """
    found: dict[str, list[str]] = {"val": [], "train": []}
    stages = list(stages)
    pruned = ["sparsity"] if any(stage.pruning for stage in stages) else []
    for stage in stages:
        leaves = _leaves([term.name for term in stage.terms], stage.metrics.models, stage.metrics.kinds)
        found["train"] += leaves
        found["val"] += leaves if "val" in stage.data else []
    return [*dict.fromkeys(f"{split}/{leaf}" for split, leaves in found.items() for leaf in leaves), *pruned]


def is_model_term(name: str) -> bool:
    """Whether `name` may be a loss that a model returns, which only a run can tell."""
    split, _, leaf = name.partition("/")
    return split in ("train", "val") and leaf.startswith("losses/") and "." in leaf


def _leaves(terms: Sequence[str], models: Sequence[str], kinds: Sequence[Mapping[str, Any]]) -> list[str]:
    judged = [f"{model}/{metric_name(kind)}" for model in models for kind in kinds]
    return [*judged, "loss", *(f"losses/{term}" for term in terms)]
