"""What the built wheels hold: every file of the package, the schemas, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(file.parent for file in (ROOT / "plugins").glob("*/pyproject.toml"))

pytestmark = pytest.mark.slow


def build(project: Path, target: Path) -> zipfile.ZipFile:
    """Build a project's wheel with the backends that are installed, and open it."""
    uv = Path(sys.executable).with_name("uv")
    options = ["--quiet", "--offline", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([uv, "build", *options, "--wheel", "--out-dir", target, project], check=True)
    (wheel,) = target.glob("*.whl")
    return zipfile.ZipFile(wheel)


def files_of(package: Path) -> set[str]:
    """Return the files of a package in the checkout, as a wheel names them."""
    hidden = ("__pycache__", ".mypy_cache", ".ruff_cache")
    return {
        file.relative_to(package.parent).as_posix()
        for file in package.rglob("*")
        if file.is_file() and not set(file.parts) & set(hidden)
    }


def contents(wheel: zipfile.ZipFile) -> set[str]:
    """Return the files of a wheel but for its metadata."""
    return {name for name in wheel.namelist() if ".dist-info/" not in name and not name.endswith("/")}


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    """Return a file of the wheel's metadata."""
    (path,) = [each for each in wheel.namelist() if each.endswith(f".dist-info/{name}")]
    return wheel.read(path).decode()


def test_the_core_holds_its_code_its_schemas_and_its_report(tmp_path: Path) -> None:
    wheel = build(ROOT, tmp_path)
    schemas = {f"kdcore/schemas/{file.name}" for file in (ROOT / "schemas").glob("*.json")}
    assert {"kdcore/schemas/config.json", "kdcore/schemas/optimizers.json"} <= schemas
    assert contents(wheel) == files_of(ROOT / "kdcore") | schemas
    assert [name for name in wheel.namelist() if name.startswith("kdcore/engine/report/templates/")]
    assert "kdcore/py.typed" in wheel.namelist()
    assert "kd = kdcore.cli.main:main" in metadata(wheel, "entry_points.txt")


def test_every_package_that_the_core_suggests_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra, packages in project["optional-dependencies"].items():
        plugins = {package for package in packages if package.startswith("kd-plugin-")}
        assert plugins <= {folder.name for folder in PLUGINS}, extra


@pytest.mark.parametrize("folder", PLUGINS, ids=[folder.name for folder in PLUGINS])
def test_a_plugin_holds_its_code_and_its_schema(folder: Path, tmp_path: Path) -> None:
    wheel = build(folder, tmp_path)
    module = folder.name.replace("-", "_")
    assert contents(wheel) == files_of(folder / "src" / module)
    assert "[kdcore.plugins]" in metadata(wheel, "entry_points.txt")
    assert f"Name: {folder.name}\n" in metadata(wheel, "METADATA")
    assert metadata(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text(encoding="utf-8")
