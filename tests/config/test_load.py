"""The whole check: every mistake of a config in one pass, each with place and repair."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcore.config.load import load_config
from kdcore.errors import ConfigError

GOOD = """\
version: 1
name: good
data:
  train: {type: digits, params: {split: train}, batch_size: 64, shuffle: true}
  val: {type: digits, params: {split: val}}
models:
  teacher: {type: digits_cnn, params: {width: 8}}
  student: {type: digits_cnn, params: {width: 2}}
adapters:
  proj: {type: conv1x1, inputs: {x: 'student:block2'}, like: 'teacher:block2'}
stages:
  - name: teach
    epochs: 1
    train: [teacher]
    losses:
      ce: {type: cross_entropy, inputs: {input: teacher}}
    optimizer: {type: SGD, params: {lr: 0.1}}
  - name: distill
    epochs: 2
    train: [student, proj]
    start: {student: initial}
    losses:
      ce: {type: cross_entropy, weight: 0.1}
      kd: {type: kd, weight: 0.9, params: {temperature: 4}}
      hint: {type: mse, inputs: {input: proj, target: 'teacher:block2'}}
    optimizer: {type: SGD, params: {lr: 0.1}}
    scheduler: CosineAnnealingLR
    best: {metric: val/student/accuracy}
    early_stop: {metric: val/loss, patience: 3}
"""


def errors(text: str, **options: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(text, **options)  # type: ignore[arg-type]
    return [str(problem) for problem in caught.value.problems]


def only(text: str) -> str:
    found = errors(text)
    assert len(found) == 1, found
    return found[0]


def test_a_good_config_is_filled_in() -> None:
    config = load_config(GOOD)
    assert [stage.name for stage in config.stages] == ["teach", "distill"]
    assert config.stages[1].terms[1].loss.params["divergence"] == "kl"
    assert config.stages[1].data == {"train": "train", "val": "val"}
    assert config.stages[1].metrics.models == ("student",)
    assert config.stages[1].best is not None
    assert config.stages[1].best.mode == "max"
    assert config.stages[1].early_stop is not None
    assert config.stages[1].early_stop.mode == "min"
    resolved = config.resolved
    assert resolved["stages"][1]["losses"]["kd"]["inputs"] == {"student": "student", "teacher": "teacher"}
    assert resolved["models"]["student"]["output"] == {"type": "auto", "params": {}}


def test_the_resolved_config_is_a_config_and_resolves_to_itself(tmp_path: Path) -> None:
    import yaml

    resolved = load_config(GOOD).resolved
    file = tmp_path / "resolved.yaml"
    file.write_text(yaml.safe_dump(dict(resolved), sort_keys=False))
    assert load_config(file).resolved == resolved


def test_ten_mistakes_are_ten_errors_in_one_pass() -> None:
    broken = (
        GOOD.replace("type: digits, params: {split: train}", "type: digitz, params: {split: train}")
        .replace("split: val", "split: vall")
        .replace("width: 8", "width: eight")
        .replace("'student:block2'}", "'studnt:block2'}")
        .replace("epochs: 1", "epochs: 0")
        .replace("{temperature: 4}", "{temprature: 4}")
        .replace("input: proj", "inputt: proj")
        .replace("{lr: 0.1}}\n  - name: distill", "{lrr: 0.1}}\n  - name: distill")
        .replace("start: {student: initial}", "start: {student: teech}")
        .replace("val/student/accuracy", "val/student/acuracy")
        .replace("patience: 3", "patience: 3, patiense: 4")
    )
    found = "\n".join(errors(broken))
    for wanted in (
        r"unknown dataset 'digitz'",
        "did you mean 'digits'",
        "'vall'",
        "'eight'",
        "no model or adapter 'studnt'",
        "did you mean 'student'",
        "stages.teach.epochs",
        "unknown parameter 'temprature' of loss 'kd' (kd-plugin-kd",
        "no input 'inputt'",
        "input 'input' of loss 'mse'",
        "'lrr'",
        "no earlier stage 'teech'",
        "no metric 'val/student/acuracy'",
        "'patiense'",
    ):
        assert wanted in found, wanted
    assert all("<config>:" in line for line in found.split("\n") if not line.startswith("    "))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("type: mse, inputs: {input: proj, target: 'teacher:block2'}", "type: mse, inputs: {input: proj}", r"input 'target' of loss 'mse' .* is bound to nothing"),
        ("type: kd, weight", "type: crdd, weight", r"unknown loss 'crdd'"),
        ("type: kd, weight", "type: conv1x1, weight", r"'conv1x1' is a adapter|'conv1x1' is an adapter"),
        ("{type: kd, weight: 0.9", "{criterion: x, type: kd, weight: 0.9", "losses go under losses:; a criterion scores weights for pruning:"),
        ("    epochs: 2", "    criterion: magnitude\n    epochs: 2", "losses go under losses:; a criterion scores weights for pruning:"),
        ("train: [student, proj]", "train: [student, prj]", r"no model or adapter 'prj' to train"),
        ("- name: distill", "- name: teach", r"stage name 'teach': another stage has this name"),
        ("best: {metric: val/student/accuracy}", "best: {metric: test/student/accuracy}", "would select on the test split"),
        ("    epochs: 2\n", "", r"stage 'distill' has no epochs"),
        ("like: 'teacher:block2'", "like: 'teacher::block2'", r"':' cannot stand in a path"),
        ("teacher: {type: digits_cnn, params: {width: 8}}", "teacher: {inputs: ['student']}", r"model 'teacher' has no type"),
        ("  proj: {type", "  student: {type", r"'student' is already the name"),
        ("batch_size: 64, shuffle: true", "batch_size: 64, shuffle: true, sampler: balanced", "shuffle and sampler both"),
        ("weight: 0.9,", "weight: 0.9, inputs: {teacher: [teacher, teacher]},", r"takes one address, not a list(.|\n)*wrapper: pairs"),
        ("    scheduler: CosineAnnealingLR\n", "    scheduler: CosineAnealingLR\n", "did you mean 'CosineAnnealingLR'"),
        ("    epochs: 2\n", "    epochs: 2\n    data: {train: trian}\n", r"no entry 'trian' under data"),
        ("start: {student: initial}", "start: {student: teach}", r"stage 'teach' does not train 'student'"),
    ],
)  # fmt: skip
def test_mistakes_name_the_repair(old: str, new: str, message: str) -> None:
    import re

    assert old in GOOD
    found = errors(GOOD.replace(old, new))
    assert any(re.search(message, each) for each in found), found


def test_metrics_follow_the_shift_of_a_wrapper() -> None:
    text = """\
version: 1
models: {student: {}}
stages:
  - {name: s, train: [student], losses: {ce: {type: cross_entropy, wrapper: causal}}}
"""
    assert load_config(text, external_models=()).stages[0].metrics.shift == 1
    assert load_config(text.replace(", wrapper: causal", ""), external_models=()).stages[0].metrics.shift == 0


def test_a_cycle_of_adapters_is_an_error() -> None:
    text = GOOD.replace("x: 'student:block2'", "x: other").replace(
        "stages:", "  other: {type: conv1x1, inputs: {x: proj}, like: 'teacher:block2'}\nstages:"
    )
    assert "wait for each other's outputs: other, proj" in only(text)


def test_the_default_teacher_must_exist() -> None:
    text = GOOD.replace("teacher", "coach")
    assert any("is 'teacher' by default, but no model or adapter is so named" in each for each in errors(text))


def test_overrides_are_checked_like_the_file() -> None:
    config = load_config(GOOD, overrides=["stages.distill.epochs=5", "stages.0.losses.ce.weight=0.5"])
    assert config.stages[1].epochs == 5
    assert config.stages[0].terms[0].weight == 0.5
    found = errors(GOOD, overrides=["stages.distill.losses.kd.params.temperature=-1"])
    assert len(found) == 1
    assert "--set stages.distill.losses.kd.params.temperature=-1" in found[0]


def test_external_models_need_no_types_data_or_optimizer() -> None:
    text = "version: 1\nmodels: {student: {}, teacher: {}}\nstages: [{name: s, train: [student], losses: {kd: kd}}]\n"
    config = load_config(text, external_models=["student", "teacher"])
    assert config.models["student"].part is None
    found = errors(text)
    assert any("model 'student' has no type" in each for each in found)
    assert any("names no model 'studnt'" in each for each in errors(text, external_models=["studnt"]))


@pytest.mark.parametrize("text", ["a: 1\n", "version: 2\nmodels: []\nstages: {}\n", "version: 1\nmodels: {a: 3, b: null}\nstages: [1, {}, {name: 4, losses: [], train: x}]\n", "version: 1\nmodels: {s: {type: 3, inputs: 5, weights: 7}}\nadapters: []\ndata: 5\nstages: [{name: s, train: [1], losses: {a: 1, b: {type: kd, params: 3, inputs: [], wrapper: 7}}, metrics: 3, best: 4, start: [], data: 4, optimizer: 3, early_stop: {metric: 4}}]\n"])  # fmt: skip
def test_junk_is_reported_not_raised(text: str) -> None:
    assert errors(text)
