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
    digest_of = script("fingerprints").digest_of
    changed = [
        name for name in examples.keys() & measured.keys() if measured[name]["digest"] != digest_of(examples[name])
    ]
    assert changed == [], "run make methods-table"


def test_differences_are_taken_seed_by_seed() -> None:
    page = script("docs_methods")
    seeds = {"0": {"alone": 0.5, "method": 0.6}, "1": {"method": 0.7}, "2": {"method": 0.4}, "3": {"method": 0.9}}
    pairs = page.paired(seeds, baseline={"0": 0.0, "1": 0.6, "2": 0.5})
    assert pairs == [(0.5, 0.6), (0.6, 0.7), (0.5, 0.4)]
    assert list(page.compared(pairs)) == ["53.3 ± 5.8", "56.7 ± 15.3", "+3.3 ± 11.5", "2 of 3"]
    assert list(page.compared([(0.5, 0.5)])) == ["50.0", "50.0", "+0.0", "0 of 1"]


SEEDS = {"0": {"alone": 0.1, "method": 0.2}}
EVERY = {"kd-plugin-balancers", "kd-plugin-digits", "kd-plugin-outputs", "kd-plugin-torch"}


def example(folder: Path, text: str = TINY) -> Path:
    """Write an example into a folder."""
    file = folder / "kd.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def measured_as(table: ModuleType, file: Path) -> dict[str, Any]:
    """Return a table that holds one seed of an example as it is."""
    (row,) = table.current({}, {"kd": file}, again=False).values()
    return {"kd": {**row, "seeds": SEEDS}}


def test_a_row_names_its_example_and_all_that_is_used(table: ModuleType, tmp_path: Path) -> None:
    row = measured_as(table, example(tmp_path))["kd"]
    assert (row["example"], row["epochs"]) == ("kd.yaml", 2)
    assert row["sources"].keys() == EVERY | {"kd-plugin-kd"}
    assert row["versions"].keys() == EVERY | {"kd-plugin-kd", "kdcore", "torch"}


def test_every_part_of_an_example_counts(table: ModuleType, configs: Mapping[str, Config]) -> None:
    found = {name: script("fingerprints").components_in(config) for name, config in configs.items()}
    used = {name: {each.provenance.distribution for each in components} for name, components in found.items()}
    assert "kd-plugin-wrappers" in used["at"]
    assert {"kd-plugin-adapters", "kd-plugin-dist"} <= used["dist_plus"]
    assert {"kd-plugin-sskd", "kd-plugin-digits"} <= used["sskd"]


@pytest.mark.parametrize(
    "text",
    ["# A comment.\n" + TINY, TINY + "description: Words.\n"],
    ids=["comment", "description"],
)
def test_words_leave_a_row_as_it_is(
    table: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    measured = measured_as(table, example(tmp_path))
    assert table.current(measured, {"kd": example(tmp_path, text)}, again=False)["kd"]["seeds"] == SEEDS
    assert not capsys.readouterr().out


def test_what_changed_is_said_and_measured_again(
    table: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = example(tmp_path)
    measured = measured_as(table, file)
    changed = {
        "code of kd-plugin-kd has changed": {"sources": {**measured["kd"]["sources"], "kd-plugin-kd": "0"}},
        "version of kdcore has changed": {"versions": {**measured["kd"]["versions"], "kdcore": "0.0.1"}},
        "kd.yaml has changed": {"digest": "0"},
    }
    for said, difference in changed.items():
        before = {"kd": {**measured["kd"], **difference}}
        assert table.current(before, {"kd": file}, again=False)["kd"]["seeds"] == {}
        assert capsys.readouterr().out == f"kd: {said}, to be measured again\n"
        assert before["kd"]["seeds"] == SEEDS, "what was measured stays until something newer is there"
    without = {key: value for key, value in measured["kd"].items() if key != "sources"}
    assert table.current({"kd": without}, {"kd": file}, again=False)["kd"]["seeds"] == {}
    assert "kd-plugin-kd" in capsys.readouterr().out
    assert table.current(measured, {"kd": file}, again=True)["kd"]["seeds"] == {}
    assert capsys.readouterr().out == "kd: asked for, to be measured again\n"


LOSS = '''
"""A loss."""
def cost(x):
    """Say so."""
    return x + 1
'''


@pytest.mark.parametrize(
    ("name", "text", "same"),
    [
        ("loss.py", LOSS + "# A comment.\n", True),
        ("loss.py", LOSS.replace("Say so", "Other words"), True),
        ("loss.py", LOSS.replace("x + 1", "x + 2"), False),
        ("examples.py", "EXAMPLES = []", True),
        ("new.py", "", False),
        ("schema.json", '{"properties": {"p": {"default": 1, "description": "new"}}}', True),
        ("schema.json", '{"properties": {"p": {"default": 2, "description": "old"}}}', False),
        ("schema.json", '{"properties": {"description": {"default": 1}}}', False),
        ("py.typed", "anything", True),
    ],
)
def test_the_digest_of_a_package_is_that_of_what_runs(tmp_path: Path, name: str, text: str, same: bool) -> None:
    digest_of_package = script("fingerprints").digest_of_package
    (tmp_path / "loss.py").write_text(LOSS, encoding="utf-8")
    (tmp_path / "schema.json").write_text(
        '{"properties": {"p": {"default": 1, "description": "old"}}}', encoding="utf-8"
    )
    before = digest_of_package(tmp_path)
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert (digest_of_package(tmp_path) == before) is same


def test_an_interrupted_table_goes_on_and_keeps_the_rows_it_did_not_reach(table: ModuleType) -> None:
    old = {"seeds": {"0": {"method": 0.1}, "1": {"method": 0.2}}, "digest": "old"}
    measured = {"kd": dict(old), "at": dict(old)}
    described = {"kd": {"seeds": {}, "digest": "new"}, "at": {"seeds": {}, "digest": "new"}}
    todo = table.missing(described, range(2))
    assert todo == [("kd", 0), ("kd", 1), ("at", 0), ("at", 1)]
    table.keep(measured, "kd", described["kd"], 1, {"method": 0.4})
    assert measured["at"] == old
    assert measured["kd"] == {"seeds": {"1": {"method": 0.4}}, "digest": "new"}
    assert table.missing(described, range(2)) == [("kd", 0), ("at", 0), ("at", 1)]
    table.keep(measured, "kd", described["kd"], 0, {"method": 0.3})
    assert list(measured["kd"]["seeds"]) == ["0", "1"]


def test_a_check_runs_nothing(table: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "methods.json"
    assert table.main(["--check", "--methods", "at", "--seeds", "2", "--output", str(file)]) == 1
    assert capsys.readouterr().out == "runs to do: 4, of kd, at\n"
    assert not file.exists()
    row = table.current({}, table.methods(Registry.discover()), again=False)["kd"]
    table.write({"kd": {**row, "seeds": SEEDS}}, file)
    assert table.main(["--check", "--methods", "kd", "--seeds", "1", "--output", str(file)]) == 0
    assert capsys.readouterr().out == "runs to do: 0, of no method\n"


def test_the_figures_that_pages_quote_are_those_of_the_table(table: ModuleType) -> None:
    figures = script("figures")
    measured = table.read()
    quoted = set()
    for page in figures.pages():
        text = page.read_text(encoding="utf-8")
        assert figures.filled(text, measured) == text, f"{page.relative_to(ROOT)} is out of date: make generate"
        quoted |= {name for _, name, _, _ in figures.MARKED.findall(text)}
        assert text.count("<!-- figure:") == text.count("<!-- /figure -->") == len(figures.MARKED.findall(text)), page
    assert {name for name in measured if name not in table.RECIPES} <= quoted, (
        "its README says what it comes to on digits"
    )


def test_a_figure_is_filled_in() -> None:
    figures = script("figures")
    seeds = {"0": {"teacher": 1.0, "alone": 0.5, "method": 0.6}, "1": {"teacher": 0.8, "alone": 0.6, "method": 0.55}}
    measured = {"kd": {"seeds": seeds}, "at": {"seeds": {"0": {"method": 0.8}, "1": {"method": 0.7}}}}
    text = "".join(
        f"<!-- figure: {what} -->old\n<!-- /figure -->|"
        for what in ("kd alone", "kd method", "kd teacher", "kd range", "at sentence")
    )
    found = re.sub("<!--.*?-->", "", figures.filled(text, measured)).split("|")[:-1]
    assert found == [
        "55.0 ± 7.1 %",
        "57.5 ± 3.5 %",
        "90.0 ± 14.1 %",
        "1 of 2 seeds, and the difference is from -5.0 to 10.0 points",
        "test accuracy, mean and standard deviation over 2 seeds: the student alone 55.0 ± 7.1 %, with the method 75.0 ± 7.1 %; "
        "seed by seed a difference of +20.0 ± 14.1 points",
    ]
    assert figures.filled(figures.filled(text, measured), measured) == figures.filled(text, measured)
    for wrong in ("nst alone", "kd mean"):
        with pytest.raises(ValueError, match=rf"{wrong} -->: no such figure; there are alone, method"):
            figures.filled(f"<!-- figure: {wrong} -->1<!-- /figure -->", measured)
    with pytest.raises(ValueError, match="at teacher -->: the example of at trains no teacher"):
        figures.filled("<!-- figure: at teacher -->1<!-- /figure -->", measured)


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

    example(tmp_path, TINY.replace("weights: as_built", "weights: missing.pt"))
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


OTHERS: dict[str, dict[str, list[list[str]]]] = yaml.safe_load(
    (ROOT / "tests" / "other_systems.yaml").read_text(encoding="utf-8")
)


def said_of(system: str) -> str:
    """Return the code of a system's section, the cells left out that hold our own names."""
    fenced = re.compile(r"^```\w+ title=\"(.+?)\"\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    found = [text for title, text in fenced.findall(SECTIONS[system]) if title != "kdcore"]
    for line in fenced.sub("", SECTIONS[system]).splitlines():
        cells = line.strip("| ").split(" | ") if line.startswith("|") else [line]
        theirs = [cells[0], *cells[3 if len(cells) == 4 else 2 :]]
        found += re.findall(r"`([^`]+)`", " ".join(theirs))
    return "\n".join(found)


@pytest.mark.parametrize(("system", "what"), [(system, what) for system, names in OTHERS.items() for what in names])
def test_the_page_names_all_that_others_have(system: str, what: str) -> None:
    code = said_of(system)
    names = [name for line in OTHERS[system][what] for name in line]
    # Whole names: what is a part of a longer one has not been said.
    missing = [name for name in names if not re.search(rf"(?<![\w!]){re.escape(name)}(?!\w)", code)]
    assert missing == [], f"docs/migrating.md says nothing of {', '.join(missing)}"


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
