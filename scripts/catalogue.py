"""Write kdcore/catalogue.json: which package of this repository offers which component.

The core reads it to say what to install when a config names something that is not. Run by
`make generate`, with every package of the repository installed.
"""

from __future__ import annotations

import json
from pathlib import Path

from kdcore.component import Kind
from kdcore.plugins import Registry

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "kdcore" / "catalogue.json"


def catalogue(registry: Registry) -> dict[str, dict[str, str]]:
    """Return the distribution of each component of this repository, by kind and name."""
    own = {file.parent.name for file in (ROOT / "plugins").glob("*/pyproject.toml")}
    offers = {kind: [each for each in registry.all(kind) if each.provenance.distribution in own] for kind in Kind}
    return {str(kind): {each.name: each.provenance.distribution for each in found} for kind, found in offers.items()}


def text(data: dict[str, dict[str, str]]) -> str:
    """Return the catalogue as it stands in its file."""
    return json.dumps(data, indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(catalogue(Registry.discover())), encoding="utf-8")
