"""The page of methods, the table of what they do on digits, and the page for those who come from elsewhere."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema_rs
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

import kdcore
from kdcore.component import Kind
from kdcore.config.config import Config, StageConfig
from kdcore.config.schemas import load_schema
from kdcore.plugins import Registry

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples" / "digits"

TINY = """
version: 1
name: tiny
data:
  train: {type: digits, params: {split: train, samples_per_class: 1}, batch_size: 10}
  test: {type: digits, params: {split: test}, batch_size: 512}
models:
  teacher: {type: digits_mlp, params: {width: 4, depth: 0}, weights: as_built}
  student: {type: digits_mlp, params: {width: 4, depth: 0}}
stages:
  - {name: alone, epochs: 1, train: [student], optimizer: SGD, losses: {ce: cross_entropy}}
  - {name: distilled, epochs: 2, train: [student], start: {student: initial}, optimizer: SGD, losses: {kd: kd}}
"""


def script(name: str) -> ModuleType:
    """Import a script of scripts/, which may import its neighbours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def table() -> ModuleType:
    return script("methods_table")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


@pytest.fixture(scope="module")
def configs(table: ModuleType, registry: Registry) -> Mapping[str, Config]:
    return {name: kdcore.load_config(file) for name, file in table.methods(registry).items()}


def stage(config: Config, name: str) -> StageConfig | None:
    """Return the stage so named, if there is one."""
    return next((each for each in config.stages if each.name == name), None)


def test_the_page_of_methods_is_current(registry: Registry, table: ModuleType) -> None:
    text = script("docs_methods").page(registry, table.read())
    assert (ROOT / "docs" / "methods.md").read_text(encoding="utf-8") == text, "out of date: make generate"


def test_every_published_loss_has_an_example_or_a_reason_why_not(registry: Registry, table: ModuleType) -> None:
    losses = {each.name for each in table.published(registry, Kind.LOSS)}
    assert {"kd", "at"} <= losses
    shown = {name for name in losses if table.example_of(name).is_file()}
    assert losses - shown == table.WITHOUT.keys() - table.RECIPES.keys(), (
        "write examples/digits/<type>.yaml, or say under WITHOUT why there is none"
    )
    assert set(table.SHOWN_IN) <= losses
    assert all(table.WITHOUT.values())
    assert {name for name in table.RECIPES if not table.example_of(name).is_file()} == set()


def test_an_example_uses_the_loss_it_stands_for(
    registry: Registry, table: ModuleType, configs: Mapping[str, Config]
) -> None:
    for name, config in configs.items():
        used = {term.loss.registered.name for each in config.stages for term in each.terms}
        assert name in used or name in table.RECIPES, f"{table.example_of(name).name} does not use {name}"


def described(part: Any) -> Any:
    """Return a part of a config without the places where it stands."""
    return part.registered.name, dict(part.params)


def read(part: Any) -> Any:
    """Return the data set that is read, within whatever shows its samples otherwise."""
    name, params = described(part)
    while "dataset" in params:
        name, params = params["dataset"]["type"], params["dataset"].get("params", {})
    return name, {"augment": False, **params}


def test_all_students_learn_from_the_same_scans_and_start_from_the_same_weights(configs: Mapping[str, Config]) -> None:
    kd = configs["kd"]
    for name, config in configs.items():
        student = config.models["student"]
        assert described(student.part) == described(kd.models["student"].part), name
        assert (student.seed, student.weights) == (None, None), name
        teaching = [each for each in config.stages if "student" in each.train]
        scans = [read(config.data[each.data["train"]].part) for each in teaching]
        assert scans == [read(kd.data["few"].part)] * len(teaching), name
        assert described(config.data["test"].part) == described(kd.data["test"].part), name


def test_a_student_alone_is_the_one_of_kd(configs: Mapping[str, Config]) -> None:
    expected = stage(configs["kd"], "alone")
    assert expected is not None
    for name, config in configs.items():
        alone = stage(config, "alone")
        if alone is None:
            continue  # compared with the row of kd.yaml
        for key in ("epochs", "optimizer", "scheduler", "best", "clip_grad_norm", "accumulate"):
            assert getattr(alone, key) == getattr(expected, key), f"{name}: {key} of the student alone"
        assert [described(term.loss) for term in alone.terms] == [described(term.loss) for term in expected.terms], name


def test_the_accuracies_belong_to_the_examples_as_they_are(table: ModuleType, registry: Registry) -> None:
    examples, measured = table.methods(registry), table.read()
    assert measured["kd"]["seeds"].keys() >= {"0", "1", "2", "3", "4"}
    changed = [
        name
        for name in examples.keys() & measured.keys()
        if measured[name]["digest"] != table.digest_of(examples[name])
    ]
    assert changed == [], "run make methods-table"


def test_differences_are_taken_seed_by_seed() -> None:
    page = script("docs_methods")
    seeds = {"0": {"alone": 0.5, "method": 0.6}, "1": {"method": 0.7}, "2": {"method": 0.4}, "3": {"method": 0.9}}
    pairs = page.paired(seeds, baseline={"0": 0.0, "1": 0.6, "2": 0.5})
    assert pairs == [(0.5, 0.6), (0.6, 0.7), (0.5, 0.4)]
    assert list(page.compared(pairs)) == ["53.3 ± 5.8", "56.7 ± 15.3", "+3.3 ± 11.5", "2 of 3"]
    assert list(page.compared([(0.5, 0.5)])) == ["50.0", "50.0", "+0.0", "0 of 1"]


def test_what_changed_is_forgotten_and_nothing_else(
    table: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "kd.yaml"
    file.write_text(TINY, encoding="utf-8")
    measured: dict[str, Any] = {}
    table.outdated(measured, {"kd": file}, again=False)
    assert measured["kd"]["epochs"] == 2
    assert measured["kd"]["versions"].keys() == {"kdcore", "torch", "kd-plugin-kd", "kd-plugin-torch"}
    measured["kd"]["seeds"] = seeds = {"0": {"alone": 0.1, "method": 0.2}}

    file.write_text("# A comment.\n" + TINY + "description: Words.\n", encoding="utf-8")
    table.outdated(measured, {"kd": file}, again=False)
    assert measured["kd"]["seeds"] == seeds
    assert not capsys.readouterr().out
    measured["kd"]["versions"]["kdcore"] = "0.0.1"
    table.outdated(measured, {"kd": file}, again=False)
    assert measured["kd"]["seeds"] == {}
    measured["kd"]["seeds"] = seeds
    file.write_text(TINY.replace("epochs: 2", "epochs: 3"), encoding="utf-8")
    table.outdated(measured, {"kd": file}, again=False)
    assert (measured["kd"]["seeds"], measured["kd"]["epochs"]) == ({}, 3)
    assert capsys.readouterr().out == "kd: measured again, for it is not what it was\n" * 2
    measured["kd"]["seeds"] = seeds
    table.outdated(measured, {"kd": file}, again=True)
    assert measured["kd"]["seeds"] == {}


@pytest.mark.slow
def test_the_table_is_filled_once_and_failures_are_told(
    table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))  # processes of the table import it by name
    monkeypatch.setattr(table, "EXAMPLES", tmp_path)
    (tmp_path / "kd.yaml").write_text(TINY, encoding="utf-8")
    command = ["--methods", "kd", "--output", str(tmp_path / "methods.json"), "--seeds"]
    assert table.main([*command, "2"]) == 0
    assert "methods: 1, runs to do: 2\n[1/2" in capsys.readouterr().out
    seeds = table.read(tmp_path / "methods.json")["kd"]["seeds"]
    assert [(seed, set(found)) for seed, found in seeds.items()] == [(seed, {"alone", "method"}) for seed in ("0", "1")]
    assert table.main([*command, "2"]) == 0
    assert capsys.readouterr().out == "methods: 1, runs to do: 0\n"

    (tmp_path / "kd.yaml").write_text(TINY.replace("weights: as_built", "weights: missing.pt"), encoding="utf-8")
    assert table.main([*command, "1"]) == 1
    assert "FAILED: WeightsError: " in capsys.readouterr().out
    assert table.read(tmp_path / "methods.json")["kd"]["seeds"] == seeds


def test_a_method_without_an_example_is_refused(table: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        table.main(["--methods", "kd,nothing"])
    assert "no example of nothing; there are" in capsys.readouterr().err


MIGRATING = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", MIGRATING, re.MULTILINE | re.DOTALL))


def ours(section: str, language: str) -> str:
    """Return the example of a section as it is written here."""
    (found,) = re.findall(rf'^```{language} title="kdcore"\n(.*?)^```$', SECTIONS[section], re.MULTILINE | re.DOTALL)
    return found


def rows(header: str) -> list[list[str]]:
    """Return the cells of every table with such a second column, its own header left out."""
    tables = re.findall(r"(?:^\|.*\n)+", MIGRATING, re.MULTILINE)
    split = [[line.strip("|\n ").split(" | ") for line in table.splitlines()] for table in tables]
    return [row for table in split if [cell.strip() for cell in table[0][1:2]] == [header] for row in table[2:]]


def test_the_keys_of_pruning_exist(registry: Registry) -> None:
    definitions = load_schema("config")["$defs"]
    shape, whole = (each.get("enum", each.get("properties")) for each in definitions["pruning_schedule"]["anyOf"])
    criteria = [each.name for each in registry.all(Kind.CRITERION)]
    patterns = ["filter", "input_channel", "head"]
    known = {*definitions["pruning_group"]["properties"], *shape, *whole, *criteria, *patterns, "pruning", "criteria"}
    table = rows("key here")
    named = {name for row in table for name in re.findall(r"`([a-z]\w+)`", row[1])}
    assert {"target_sparsity", "criterion", "scope", "reduce"} <= named <= known
    started = {name for row in table for name in re.findall(r"`([a-z]\w+): ", row[1])}
    assert {"schedule", "criterion"} <= started <= known


@pytest.mark.parametrize("section", ["torchdistill", "Intel Extension for Transformers"])
def test_an_example_in_yaml_runs(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kd.yaml").write_text(ours(section, "yaml"), encoding="utf-8")
    stages = range(len(yaml.safe_load(ours(section, "yaml"))["stages"]))
    tiny = [f"stages.{index}.{what}" for index in stages for what in ("epochs=1", "steps_per_epoch=2")]
    config = kdcore.load_config("kd.yaml", overrides=[*tiny, "device=cpu"])
    safetensors.torch.save_file(config.models["teacher"].part.build().state_dict(), "teacher.safetensors")
    assert (kdcore.run(config, quiet=True) / "student.safetensors").is_file()


def executed(section: str) -> tuple[dict[str, Any], Tensor, Tensor, Tensor]:
    """Run a section's loop; returns its names, then the total, the logits and those of the teacher on one batch."""
    torch.manual_seed(0)
    student, teacher = nn.Sequential(nn.Linear(6, 5)), nn.Sequential(nn.Linear(6, 5))
    before = student[0].weight.detach().clone()
    loader = [(torch.randn(4, 6), torch.randint(5, (4,))) for _ in range(2)]
    names = {"student": student, "teacher": teacher, "loader": loader, "x": loader[0][0], "y": loader[0][1]}
    names["optimizer"] = torch.optim.SGD(student.parameters(), lr=0.1)
    exec(compile(ours(section, "python"), "migrating.md", "exec"), names)
    assert not torch.equal(names["student"][0].weight, before)
    x, names["y"] = loader[0]
    total = names["objective"]({"input": x, "target": names["y"]}).total
    return names, total, names["student"](x), teacher(x)


def test_the_loop_of_neural_compressor_has_its_numbers_here() -> None:
    names, total, student, teacher = executed("Intel Neural Compressor")
    divergence = F.kl_div((student / 4).log_softmax(-1), (teacher / 4).softmax(-1), reduction="sum") / student.numel()
    torch.testing.assert_close(total, 0.1 * F.cross_entropy(student, names["y"]) + 0.9 * 16 * divergence)


def test_the_loop_of_model_optimizer_has_its_numbers_here() -> None:
    names, total, student, teacher = executed("NVIDIA Model Optimizer")
    divergence = F.kl_div((student / 2).log_softmax(-1), (teacher / 2).softmax(-1), reduction="sum") / student.numel()
    torch.testing.assert_close(total, 0.3 * F.cross_entropy(student, names["y"]) + 0.7 * 4 * divergence)


def test_what_the_tables_say_of_components_is_so(registry: Registry) -> None:
    offered = {each.name: each for kind in reversed(Kind) for each in registry.all(kind)}
    table = [row for row in rows("here") if len(row) > 2]
    assert len(table) > 40
    named = {name for row in table for name in re.findall(r"`([a-z]\w+)`", row[1])}
    assert named - offered.keys() == set()
    numbers = [row for row in table if len(row) == 4]
    for row in numbers:
        component = offered[re.findall(r"`(\w+)`", row[1])[0]]
        for params in re.findall(r"`(\{.*?\})`", row[2]):
            jsonschema_rs.validate(component.schema, yaml.safe_load(params))
