"""`kd plugins`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from kdcore.cli.example import example, example_params
from kdcore.component import Kind
from kdcore.config.load import load_config
from kdcore.plugins import Registered, Registry

OFFER = """
@hookimpl
def losses():
    schema = {"type": "object", "properties": {"pace": {"type": "number", "minimum": 0, "default": 0.5}}}
    paper = Paper("On [Brackets]", 2020, "https://example.org/paper")
    return [Component(name="{name}", factory="torch.nn:MSELoss", schema=schema, summary="a [test] loss", paper=paper,
        inputs=(Input("student", default="student"), Input("labels", role=Role.LABELS), Input("mask", required=False)))]
"""

INSTALLED = Registry.discover().all()


def offer(name: str) -> str:
    return OFFER.replace("{name}", name)


def identified(registered: Registered) -> str:
    return f"{registered.kind}-{registered.name}"


def line_of(out: str, words: str) -> str:
    """Return the one line of a table that holds a cell."""
    (line,) = [line for line in out.splitlines() if words in [cell.strip() for cell in line.split("  ")]]
    return line


def test_the_list_names_distribution_version_and_paper(kd: Any, install: Any) -> None:
    install("kd-plugin-listed", offer("listed"))
    called = kd("plugins")
    assert called.code == 0
    cells = [cell.strip() for cell in line_of(called.out, "listed").split("  ") if cell.strip()]
    assert cells == ["loss", "listed", "kd-plugin-listed", "1.2.3", "a [test] loss", "On [Brackets] (2020)"]
    assert "broken" not in called.out


def test_one_kind(kd: Any, install: Any) -> None:
    install("kd-plugin-kinds", offer("kinds"))
    assert "kinds" not in kd("plugins", "--kind", "model").out
    assert "kinds" in kd("plugins", "--kind", "loss").out
    assert "invalid choice: 'lossy'" in kd("plugins", "--kind", "lossy").err


def test_broken_clashing_and_disabled_plugins(kd: Any, install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install("kd-plugin-cracked", "import no_such_module_at_all")
    schema = """{"type": "object", "properties": {"pace": {"type": "number", "minimum": 0, "default": 0.5}}}"""
    install(
        "kd-plugin-shapeless",
        offer("shapeless").replace(schema, '"absent.json"').replace("torch.nn", "kd_plugin_shapeless"),
    )
    install("kd-plugin-one", offer("both"))
    install("kd-plugin-two", offer("both"))
    install("kd-plugin-silent", offer("silent"))
    monkeypatch.setenv("KDCORE_DISABLE_PLUGINS", "silent")
    called = kd("plugins")
    assert called.code == 0
    assert "No module named 'no_such_module_at_all'" in line_of(called.out, "all of it")
    assert "FileNotFoundError" in line_of(called.out, "kd-plugin-shapeless")
    assert "kd-plugin-one:both, kd-plugin-two:both" in line_of(called.out, "loss both")
    assert "kd-plugin-silent" in called.out
    data = json.loads(kd("plugins", "--json").out)
    assert [(each["distribution"], each["version"], each["name"]) for each in data["broken"]] == [
        ("kd-plugin-cracked", "1.2.3", None),
        ("kd-plugin-shapeless", "1.2.3", "shapeless"),
    ]
    assert data["clashes"] == [{"kind": "loss", "name": "both", "distributions": ["kd-plugin-one", "kd-plugin-two"]}]
    assert [each["distribution"] for each in data["disabled"]] == ["kd-plugin-silent"]
    names = [each["name"] for each in data["components"]]
    assert "both" in names
    assert not {"silent", "shapeless"} & set(names)


def test_no_plugins_at_all(kd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCORE_DISABLE_PLUGINS", "*")
    assert "kdcore[standard]" in kd("plugins").out


def test_one_component_in_full(kd: Any, install: Any) -> None:
    install("kd-plugin-shown", offer("shown"))
    out = kd("plugins", "show", "shown").out
    assert "shown: loss of kd-plugin-shown 1.2.3" in out
    assert "On [Brackets] (2020), https://example.org/paper" in out
    assert line_of(out, "pace").split() == ["pace", "number", "0.5", ">=", "0"]
    assert line_of(out, "none, must be bound").split() == ["labels", "labels", "none,", "must", "be", "bound"]
    assert line_of(out, "mask").split() == ["mask", "plain", "optional"]
    written = yaml.safe_load(out.partition("example, in a stage:")[2])
    assert written == {
        "losses": {"shown": {"type": "shown", "params": {"pace": 0.5}, "inputs": {"labels": "batch:labels"}}}
    }


def test_show_as_json(kd: Any, install: Any) -> None:
    install("kd-plugin-data", offer("as_data"))
    data = json.loads(kd("plugins", "show", "as_data", "--json").out)
    assert data["distribution"] == "kd-plugin-data"
    assert data["params"]["properties"]["pace"]["default"] == 0.5


def test_show_needs_a_name_and_a_name_needs_show(kd: Any) -> None:
    assert "show needs the NAME of a component" in kd("plugins", "show").err
    assert kd("plugins", "shwo", "kd").code == 2


def test_show_of_an_unknown_name(kd: Any, install: Any) -> None:
    install("kd-plugin-known", offer("known_one"))
    called = kd("plugins", "show", "known_onw")
    assert called.code == 1
    assert "no component is called 'known_onw'" in called.err
    assert "did you mean 'known_one'" in called.err


def test_a_name_of_two_kinds_asks_which(kd: Any, install: Any) -> None:
    install("kd-plugin-pair", offer("twofold") + offer("twofold").replace("def losses", "def adapters"))
    called = kd("plugins", "show", "twofold")
    assert called.code == 1
    assert "--kind loss or --kind adapter" in called.err
    assert kd("plugins", "show", "twofold", "--kind", "adapter").out.startswith("twofold: adapter")


def test_a_plugin_file_can_be_shown(kd: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from kdcore import Component, Input, Paper, Role, hookimpl\n" + offer("mine"))
    assert f"mine: loss of {file}" in kd("plugins", "show", "mine", "--plugin", file).out


@pytest.mark.parametrize("registered", INSTALLED, ids=identified)
def test_every_example_is_valid(registered: Registered) -> None:
    assert jsonschema_rs.is_valid(registered.schema, example_params(registered.schema))
    load_config(whole(registered))


@pytest.mark.parametrize("registered", INSTALLED, ids=identified)
def test_everything_installed_can_be_shown(kd: Any, registered: Registered) -> None:
    called = kd("plugins", "show", registered.name, "--kind", registered.kind)
    assert called.code == 0, called.err
    text = called.out.rpartition(":\n\n")[2]
    assert yaml.safe_load(text) == example(registered)


def whole(registered: Registered) -> str:
    """Return a config around a component's example."""
    piece = example(registered)
    config: dict[str, Any] = yaml.safe_load(CONFIG)
    (stage,) = config["stages"]
    if registered.kind in (Kind.LOSS, Kind.WRAPPER, Kind.BALANCER, Kind.CRITERION):
        stage.update(piece)
    elif registered.kind is Kind.OUTPUT_EXTRACTOR:
        config["models"]["student"].update(piece)
    else:
        for section, entries in piece.items():
            config.setdefault(section, {}).update(entries)
    return yaml.safe_dump(config, sort_keys=False)


CONFIG = """
version: 1
data: {train: {type: digits, params: {split: train}}}
models: {teacher: {type: digits_mlp, weights: as_built}, student: {type: digits_mlp}}
stages:
  - name: distill
    epochs: 1
    train: [student]
    losses: {kd: kd}
    optimizer: {type: SGD, params: {lr: 0.1}}
"""
