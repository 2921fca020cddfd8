"""What the results of a search depend on, and how that differs from what it was when the search began."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdcore.config.source import Path, dotted
from kdcore.errors import Place, RunError
from kdcore.search.values import shown, token

# What may change between two parts of a search, because no trial that has ended depends on it.
_FREE = (
    "output_dir",
    "description",
    "checkpoints",
    "search.max_trials",
    "search.timeout_s",
    "search.jobs",
    "search.final",
)
_LOADING = ("num_workers", "pin_memory", "prefetch_factor", "persistent_workers")


def check_unchanged(saved: Mapping[str, Any], now: Mapping[str, Any], folder: str, place: Place) -> None:
    """Raise RunError with every difference between two configs that makes trials incomparable."""
    found = differences(saved, now)
    if found:
        raise RunError(
            f"{folder!r} holds another search: " + "; ".join(found),
            place=place,
            repair="bring back what it was, or begin a new search without --resume",
        )


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for each value that differs and may not."""
    old, new = dict(_leaves(saved)), dict(_leaves(now))
    lines = []
    for path in dict.fromkeys([*old, *new]):
        if _free(path) or (path in old and path in new and token(old[path]) == token(new[path])):
            continue
        was, is_ = (shown(side[path]) if path in side else "not there" for side in (old, new))
        lines.append(f"{dotted(path, now)}: was {was}, is {is_}")
    return lines


def _free(path: Path) -> bool:
    text = ".".join(map(str, path))
    if path[0] == "data" and len(path) > 2 and path[2] in _LOADING:
        return True
    return any(text == free or text.startswith(free + ".") for free in _FREE)


def _leaves(node: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    entries = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else None
    if entries is None or not node:
        yield path, node
        return
    for key, value in entries:
        yield from _leaves(value, (*path, key))
