"""Wrappers that give a loss an input which it does not have by itself."""

from __future__ import annotations

from typing import Any

import yaml

from kdcore.component import Kind
from kdcore.config.checker import Checker
from kdcore.config.config import Path


def wrapper_with(name: str, checker: Checker, term: Path) -> str:
    """Return what to write as `wrapper:` of the term at that path to give it an input `name`; nothing if none does."""
    node: Any = checker.source.data
    for step in term:
        node = node[step]
    own = node.get("wrapper", [])
    own = own if isinstance(own, list) else [own]
    offers = [each.name for each in checker.registry.all(Kind.WRAPPER) if each.component.input(name)]
    # Innermost: it takes the inputs as the others leave them, and leaves them as the loss takes them.
    chains = [_written([*own, offer]) for offer in offers]
    return f"wrapper: {' or '.join(chains)} adds an input {name!r}" if chains else ""


def _written(chain: list[Any]) -> str:
    text = yaml.safe_dump(chain, default_flow_style=True, sort_keys=False, width=1000, allow_unicode=True).strip()
    return text if len(chain) > 1 else text[1:-1]
