"""`kd schema`: the merged schema accepts and refuses what `kd validate` does."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from kdcore.cli.merged_schema import merged_schema, rebased
from kdcore.config.load import load_config
from kdcore.errors import ConfigError
from kdcore.plugins import Registry

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("**/*.yaml"))

CONFIG = """
version: 1
data:
  train: {type: digits, params: {split: train}, batch_size: 64}
models:
  teacher: {type: digits_mlp, weights: as_built}
  student: digits_mlp
stages:
  - name: distill
    epochs: 1
    train: [student]
    wrapper: simple
    losses:
      kd: {type: kd, params: {temperature: 4}}
    balancer: {type: weighted_sum}
    optimizer: {type: SGD, params: {lr: 0.1}}
    scheduler: CosineAnnealingLR
"""


@pytest.fixture(scope="module")
def validator() -> jsonschema_rs.Draft202012Validator:
    """Return a validator by the schema of everything installed."""
    return jsonschema_rs.Draft202012Validator(merged_schema(Registry.discover()))


def with_value(path: str, value: Any) -> dict[str, Any]:
    """Return the config with the value at a dotted path replaced, or removed if it is `...`."""
    config: dict[str, Any] = yaml.safe_load(CONFIG)
    node: Any = config
    *steps, last = [int(step) if step.isdecimal() else step for step in path.split(".")]
    for step in steps:
        node = node[step]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return config


def test_it_is_a_valid_schema() -> None:
    schema = merged_schema(Registry.discover())
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema_rs.meta.validate(schema)


def test_every_reference_resolves() -> None:
    schema = merged_schema(Registry.discover())
    found = list(references(schema))
    assert found
    for reference in found:
        node: Any = schema
        for step in reference.removeprefix("#/").split("/"):
            node = node[step.replace("~1", "/").replace("~0", "~")]


def references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [found for item in node for found in references(item)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
    return own + [found for item in node.values() for found in references(item)]


STAGE = "stages.0"
PART = {"type": "StepLR", "params": {"step_size": 3}}
CASES = [
    ("name", "run", True),
    ("name", "", False),
    ("unknown", 1, False),
    ("version", 2, False),
    ("data.train.type", "digts", False),
    ("data.train.type", "kd-plugin-digits:digits", True),
    ("data.train.type", "kd-plugin-text:digits", False),
    ("data.train.params", {"split": "nowhere"}, False),
    ("data.train.type", "kd", False),
    ("models.student", "digits_cnn", True),
    ("models.student", "digits_rnn", False),
    ("models.student", {"type": "digits_cnn", "params": {"width": 0}}, False),
    ("models.student", {"type": "digits_cnn", "params": {"width": "8"}}, False),
    ("models.student", {"type": "digits_cnn", "params": {"wdth": 8}}, False),
    ("models.student", {"type": "digits_cnn", "output": "auto"}, True),
    ("models.student", {"type": "digits_cnn", "output": {"type": "auto"}}, True),
    ("models.student", {"type": "digits_cnn", "output": "weighted_sum"}, False),
    ("models.student", {"type": "digits_cnn", "output": {"type": "auto", "params": {"x": 1}}}, False),
    (f"{STAGE}.losses.kd", "kd", True),
    (f"{STAGE}.losses.kd", "kd-plugin-kd:kd", True),
    (f"{STAGE}.losses.kd", "kdd", False),
    (f"{STAGE}.losses.kd.params.temperature", 0, False),
    (f"{STAGE}.losses.kd.params.divergence", "js", False),
    (f"{STAGE}.losses.kd.type", "kd-plugin-kd:kd", True),
    (f"{STAGE}.losses.kd.temperature", 4, False),
    (f"{STAGE}.losses.kd.wrapper", "simple", True),
    (f"{STAGE}.losses.kd.wrapper", ["simple", {"type": "simple"}], True),
    (f"{STAGE}.losses.kd.wrapper", ["simple", "kd"], False),
    (f"{STAGE}.wrapper", "kd", False),
    (f"{STAGE}.balancer", "weighted_sum", True),
    (f"{STAGE}.balancer", "auto", False),
    (f"{STAGE}.balancer", {"type": "weighted_sum", "params": {"nonsense": 1}}, False),
    (f"{STAGE}.optimizer", "AdamW", True),
    (f"{STAGE}.optimizer", "Adamw", False),
    (f"{STAGE}.optimizer", {"type": "LBFGS"}, False),
    (f"{STAGE}.optimizer.params.lr", -1, False),
    (f"{STAGE}.optimizer.params.lrr", 1, False),
    (f"{STAGE}.optimizer.groups", [{"pattern": "*.bias", "params": {"weight_decay": 0}}], True),
    (f"{STAGE}.optimizer.groups", [{"pattern": "*.bias", "params": {"weight_decy": 0}}], False),
    (f"{STAGE}.optimizer.groups", [{"pattern": "*.bias", "params": {"foreach": True}}], False),
    (f"{STAGE}.optimizer.groups", [{"params": {}}], False),
    (f"{STAGE}.scheduler", {"type": "CosineAnnealingLR", "params": {"T_max": "auto"}}, True),
    (f"{STAGE}.scheduler", {"type": "CosineAnnealingLR", "params": {"T_max": "often"}}, False),
    (f"{STAGE}.scheduler", {"type": "CosineAnnealingLR", "interval": "step"}, True),
    (f"{STAGE}.scheduler", {"type": "CosineAnnealingLR", "interval": "hour"}, False),
    (f"{STAGE}.scheduler", "StepLR", False),
    (f"{STAGE}.scheduler", {"type": "StepLR"}, False),
    (f"{STAGE}.scheduler", PART, True),
    (f"{STAGE}.scheduler", {"type": "ChainedScheduler", "params": {"schedulers": [PART, "LinearLR"]}}, True),
    (f"{STAGE}.scheduler", {"type": "ChainedScheduler", "params": {"schedulers": [PART, "OneCycleLR"]}}, False),
    (
        f"{STAGE}.scheduler",
        {"type": "ChainedScheduler", "params": {"schedulers": [{**PART, "interval": "step"}]}},
        False,
    ),
    (f"{STAGE}.scheduler", {"type": "ChainedScheduler", "params": {"schedulers": ["StepLR"]}}, False),
    (f"{STAGE}.epochs", 0, False),
    (f"{STAGE}.losses", {}, False),
    (f"{STAGE}.train", ..., False),
]


@pytest.mark.parametrize(("path", "value", "fine"), CASES, ids=[f"{path}={value}" for path, value, _ in CASES])
def test_it_agrees_with_kd_validate(
    validator: jsonschema_rs.Draft202012Validator, path: str, value: Any, fine: bool
) -> None:
    config = with_value(path, value)
    with contextlib.nullcontext() if fine else pytest.raises(ConfigError):
        load_config(yaml.safe_dump(config))
    assert validator.is_valid(config) is fine


def test_there_are_examples() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("file", EXAMPLES, ids=[file.stem for file in EXAMPLES])
def test_it_accepts_every_example(file: Path) -> None:
    registry = Registry.discover()
    # A plugin file beside an example belongs to it.
    if file.with_suffix(".py").is_file():
        registry.load_file(file.with_suffix(".py"))
    validator = jsonschema_rs.Draft202012Validator(merged_schema(registry))
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(config)] == []


def test_a_clashing_name_must_be_written_in_full(install: Any) -> None:
    source = """
@hookimpl
def losses():
    return [Component(name="kd", factory="torch.nn:MSELoss", schema={"type": "object"}, summary="another")]
"""
    install("kd-plugin-rival", source)
    validator = jsonschema_rs.Draft202012Validator(merged_schema(Registry.discover()))
    assert not validator.is_valid(with_value(f"{STAGE}.losses.kd", "kd"))
    assert validator.is_valid(with_value(f"{STAGE}.losses.kd", "kd-plugin-rival:kd"))
    assert validator.is_valid(with_value(f"{STAGE}.losses.kd", "kd-plugin-kd:kd"))


def test_a_component_without_a_usable_schema_is_left_out(install: Any) -> None:
    source = """
@hookimpl
def losses():
    return [Component(name="maimed", factory="torch.nn:MSELoss", schema={"type": 3}, summary="")]
"""
    install("kd-plugin-maimed", source)
    validator = jsonschema_rs.Draft202012Validator(merged_schema(Registry.discover()))
    assert not validator.is_valid(with_value(f"{STAGE}.losses.kd", "maimed"))


def test_references_inside_a_plugins_schema_still_resolve(install: Any) -> None:
    source = """
@hookimpl
def losses():
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.org/of-its-own",
        "type": "object",
        "additionalProperties": False,
        "properties": {"size": {"$ref": "#/$defs/size"}},
        "$defs": {"size": {"type": "integer", "minimum": 1}},
    }
    return [Component(name="referring", factory="torch.nn:MSELoss", schema=schema, summary="")]
"""
    install("kd-plugin-referring", source)
    validator = jsonschema_rs.Draft202012Validator(merged_schema(Registry.discover()))
    loss = {"type": "referring", "params": {"size": 1}}
    assert validator.is_valid(with_value(f"{STAGE}.losses.kd", loss))
    assert not validator.is_valid(with_value(f"{STAGE}.losses.kd", {**loss, "params": {"size": 0}}))


def test_rebasing_escapes_the_key() -> None:
    assert rebased({"a": [{"$ref": "#"}, {"$ref": "other.json"}]}, "x/y~z") == {
        "a": [{"$ref": "#/$defs/x~1y~0z"}, {"$ref": "other.json"}]
    }


def test_the_command_prints_or_writes_it(kd: Any, tmp_path: Path) -> None:
    printed = kd("schema")
    assert printed.code == 0
    assert json.loads(printed.out)["title"] == "kdcore config"
    file = tmp_path / "kd.schema.json"
    written = kd("schema", "-o", file)
    assert (written.code, written.out) == (0, "")
    assert file.read_text(encoding="utf-8") == printed.out


def test_a_file_that_cannot_be_written(kd: Any, tmp_path: Path) -> None:
    called = kd("schema", "-o", tmp_path / "absent" / "kd.schema.json")
    assert called.code == 1
    assert "cannot write" in called.err


def test_plugin_files_take_part(kd: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from kdcore import Component, hookimpl\n@hookimpl\ndef losses():\n"
        "    return [Component(name='mine', factory='torch.nn:MSELoss', schema={'type': 'object'}, summary='')]\n"
    )
    names = json.loads(kd("schema", "--plugin", file).out)["$defs"]["loss"]["anyOf"][0]["enum"]
    assert {"mine", f"{file}:mine"} <= set(names)
