"""Fake distributions: what pip would leave behind, written by a test."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

Install = Callable[..., Path]

MANIFEST = """
    from kdcore.component import Component, Input, Paper, Role
    from kdcore.hookspecs import hookimpl
"""


def install_into(
    site: Path,
    distribution: str,
    source: str,
    *,
    files: dict[str, str] | None = None,
    entry: str | None = None,
    entry_points: str | None = None,
    version: str = "1.2.3",
) -> Path:
    """Write a package of one plugin and its metadata into `site`; returns the package's folder."""
    module = distribution.replace("-", "_")
    name = entry or distribution.removeprefix("kd-plugin-")
    package = site / module
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(textwrap.dedent(MANIFEST) + textwrap.dedent(source), encoding="utf-8")
    for file, text in (files or {}).items():
        (package / file).write_text(textwrap.dedent(text), encoding="utf-8")
    info = site / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n\nName: no\n")
    points = f"[kdcore.plugins]\n{name} = {module}\n" if entry_points is None else entry_points
    (info / "entry_points.txt").write_text(points)
    return package


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder on the import path that holds fake distributions."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def install(site: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs a fake distribution: `install("kd-plugin-x", source, ...)`."""
    before = set(sys.modules)

    def installed(distribution: str, source: str, **options: object) -> Path:
        package = install_into(site, distribution, source, **options)  # type: ignore[arg-type]
        assert package.name not in before, f"{package.name} is imported already: use another name in this test"
        monkeypatch.delitem(sys.modules, package.name, raising=False)
        return package

    return installed
