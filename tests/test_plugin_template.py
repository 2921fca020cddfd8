"""Every folder of plugins/ follows one template, and its manifest says what its code does."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kdcore.component import Kind
from kdcore.plugins import Registered, Registry
from kdcore.signatures import BUILT_WITH

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(file.parent for file in (ROOT / "plugins").glob("*/pyproject.toml"))
REGISTRY = Registry.discover()
COMPONENTS = [each for each in REGISTRY.all() if each.provenance.distribution in {folder.name for folder in FOLDERS}]

HEAVY = ("matplotlib", "numpy", "optuna", "sklearn", "torch", "transformers")


def identified(registered: Registered) -> str:
    return f"{registered.kind}-{registered.name}"


each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])
each_component = pytest.mark.parametrize("registered", COMPONENTS, ids=identified)


def test_there_are_plugins_and_no_other_folders() -> None:
    assert FOLDERS
    assert sorted(folder for folder in (ROOT / "plugins").iterdir() if folder.is_dir()) == FOLDERS


@each_folder
def test_the_project_file_follows_the_template(folder: Path) -> None:
    data = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    name, module = folder.name.removeprefix("kd-plugin-"), folder.name.replace("-", "_")
    project = data["project"]
    assert folder.name == f"kd-plugin-{name}" == project["name"]
    assert project["description"].strip()
    assert (project["readme"], project["license"], project["requires-python"]) == ("README.md", "MIT", ">=3.11")
    assert project["license-files"] == ["LICENSE"]
    assert "kdcore>=0.1" in project["dependencies"]
    assert project["entry-points"] == {"kdcore.plugins": {name: module}}
    assert data["build-system"] == {"requires": ["uv_build>=0.8,<1"], "build-backend": "uv_build"}
    allowed = {
        *("name", "version", "description", "readme", "license", "license-files"),
        *("requires-python", "dependencies", "entry-points"),
    }
    assert set(project) == allowed
    assert set(data) == {"project", "build-system"}, "settings of tools stand once, in the pyproject.toml of the root"


@each_folder
def test_the_files_follow_the_template(folder: Path) -> None:
    module = folder.name.replace("-", "_")
    assert [each.name for each in (folder / "src").iterdir() if not each.name.startswith(".")] == [module]
    assert (folder / "src" / module / "__init__.py").is_file()
    assert (folder / "src" / module / "py.typed").is_file()
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(f"# {folder.name}\n")
    assert len(readme.split()) > 30, "the README says what the plugin offers and how to use it"
    assert list((folder / "tests").glob("test_*.py"))


@each_folder
def test_it_is_installed_and_offers_something(folder: Path) -> None:
    assert [each for each in COMPONENTS if each.provenance.distribution == folder.name], (
        f"{folder.name} is not installed or offers nothing; make install: {list(map(str, REGISTRY.broken))}"
    )


def test_nothing_of_the_tree_is_broken_or_clashes() -> None:
    REGISTRY.check_schemas()
    assert [str(each) for each in REGISTRY.broken] == []
    assert REGISTRY.clashes() == []


def test_the_catalogue_names_every_component() -> None:
    offers = {
        str(kind): {each.name: each.provenance.distribution for each in COMPONENTS if each.kind is kind}
        for kind in Kind
    }
    assert json.loads((ROOT / "kdcore" / "catalogue.json").read_text(encoding="utf-8")) == offers, "make generate"


def test_no_manifest_imports_anything_heavy() -> None:
    modules = [folder.name.replace("-", "_") for folder in FOLDERS]
    code = (
        "import importlib, sys\n"
        f"for name in {modules}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = set({HEAVY}) & set(sys.modules)\n"
        "    sys.exit(f'{name} imports {heavy}') if heavy else None\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@each_component
def test_the_description_is_complete(registered: Registered) -> None:
    component = registered.component
    assert component.summary.strip()
    assert "\n" not in component.summary
    assert isinstance(component.factory, str)
    for each in component.inputs:
        assert each.help.strip(), f"input {each.name} has no help"


@each_component
def test_the_schema_is_strict_and_describes_every_param(registered: Registered) -> None:
    schema = registered.schema
    assert schema["additionalProperties"] is False
    for name, param in schema.get("properties", {}).items():
        assert param.get("description", "").strip(), f"param {name} has no description"
        assert ("default" in param) is (name not in schema.get("required", ())), f"param {name}: default or required"


@each_component
def test_defaults_are_those_of_the_constructor(registered: Registered) -> None:
    given = BUILT_WITH.get(registered.kind)
    parameters = inspect.signature(registered.factory()).parameters
    # A class without a constructor of its own has nn.Module's, which takes anything and refuses it later.
    catch_all = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    built = {name: each for name, each in parameters.items() if name != given and each.kind not in catch_all}
    properties = registered.schema.get("properties", {})
    assert set(properties) == set(built)
    for name, parameter in built.items():
        if parameter.default is inspect.Parameter.empty:
            assert name in registered.schema.get("required", ())
        else:
            assert plain(parameter.default) == properties[name]["default"], name


def plain(value: Any) -> Any:
    """Return a default as JSON writes it."""
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


@each_component
def test_inputs_are_those_of_forward(registered: Registered) -> None:
    inputs = {each.name: each for each in registered.component.inputs}
    if registered.kind not in (Kind.LOSS, Kind.ADAPTER):
        assert not inputs or registered.kind is Kind.WRAPPER
        return
    parameters = dict(list(inspect.signature(registered.factory().forward).parameters.items())[1:])  # type: ignore[attr-defined]
    assert set(inputs) == set(parameters)
    for name, parameter in parameters.items():
        assert inputs[name].required is (parameter.default is inspect.Parameter.empty), name
