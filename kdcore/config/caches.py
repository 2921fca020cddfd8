"""Checks of `cache:`: whose results are stored, and whether they can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdcore.config.config import CacheConfig, ModelConfig, Path, StageConfig

if TYPE_CHECKING:
    from kdcore.config.checker import Checker


def read_cache(checker: Checker, node: Any, path: Path) -> CacheConfig | None:
    """Read `cache:`, a truth value or a mapping; None means no cache."""
    place = checker.source.place(path)
    if node is True:
        return CacheConfig(place=place)
    if not isinstance(node, dict):
        return None
    return CacheConfig(node.get("folder"), node.get("dtype", "as_is"), node.get("top_k", 0), place)


def check_caches(checker: Checker, models: Mapping[str, ModelConfig], stages: Sequence[StageConfig | None]) -> None:
    """Report models whose results cannot be stored by sample, or never would be."""
    for name, model in models.items():
        if model.cache is None:
            continue
        path: Path = ("models", name, "cache")
        others = [str(address) for address in model.addresses if not address.is_batch]
        if others:
            checker.problem(
                f"{name!r} cannot be cached: it is fed by {', '.join(others)}, and a cache knows samples only",
                path,
                "call it with entries of the batch, or remove cache:",
            )
        if stages and all(stage is not None and name in stage.train for stage in stages):
            where = "the stage trains" if len(stages) == 1 else "every stage trains"
            checker.problem(
                f"{name!r} has a cache, but {where} it: what it yields for a sample changes from step to step",
                path,
                "only frozen models are cached; remove cache:, or take the model out of a train:",
            )
