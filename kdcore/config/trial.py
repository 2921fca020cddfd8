"""From a config with `search:` to the config of one of its trials."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kdcore.config.source import Source


def without_search(source: Source) -> Source:
    """Return `source` without its section `search:`, as an ordinary run has it."""
    return replace(source, data={key: value for key, value in source.data.items() if key != "search"})


def assignments(values: Mapping[str, Any]) -> list[str]:
    """Return `values`, by config path, as `--set` takes them; a path comes before those that lead further."""
    return [f"{path}={json.dumps(value, ensure_ascii=False)}" for path, value in sorted(values.items())]
