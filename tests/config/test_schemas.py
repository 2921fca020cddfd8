"""The core's schemas are found in a checkout and in an installed package."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema_rs
import pytest

from kdcore.config.schemas import load_schema, schema_folder
from kdcore.errors import KdcoreError


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "root" / "kdcore"
    folder.mkdir(parents=True)
    return folder


def test_checkout(package: Path) -> None:
    (package.parent / "schemas").mkdir()
    (package.parent / "pyproject.toml").touch()
    assert schema_folder(package) == package.parent / "schemas"


def test_installed_package(package: Path) -> None:
    (package / "schemas").mkdir()
    (package.parent / "schemas").mkdir()
    assert schema_folder(package) == package / "schemas"


def test_somebody_elses_schemas_are_left_alone(package: Path) -> None:
    (package.parent / "schemas").mkdir()
    message = r"kdcore's schemas are missing: neither (.|\n)*install kdcore again"
    with pytest.raises(KdcoreError, match=message) as caught:
        schema_folder(package)
    assert str(package / "schemas") in str(caught.value)


def test_neither(package: Path) -> None:
    with pytest.raises(KdcoreError, match="schemas are missing"):
        schema_folder(package)


def test_every_schema_of_the_core_is_valid() -> None:
    names = [file.stem for file in schema_folder().glob("*.json")]
    assert "config" in names
    for name in names:
        schema = load_schema(name)
        jsonschema_rs.meta.validate(schema)
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        assert load_schema(name) is schema


def test_unknown_schema() -> None:
    with pytest.raises(KdcoreError, match=r"there is no schema 'confg'\n    did you mean 'config'"):
        load_schema("confg")


def test_schema_that_is_no_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.json").write_text(json.dumps([1]))
    monkeypatch.setattr("kdcore.config.schemas.schema_folder", lambda: tmp_path)
    with pytest.raises(KdcoreError, match="the schema 'odd' is not a JSON object"):
        load_schema("odd")
