"""Stages that every trial shares."""

from __future__ import annotations

from typing import Any

import pytest

import kdcore
from kdcore.plugins import registry
from kdcore.search.prelude import common_stages, prelude_key
from kdcore.search.trial_config import load_trial, used_names

CONFIG = """\
version: 1
data:
  train: {type: digits, params: {split: train}, batch_size: 64}
  few: {type: digits, params: {split: train, samples_per_class: 5}, batch_size: 8}
  val: {type: digits, params: {split: val}, batch_size: 64}
models:
  teacher: {type: digits_cnn}
  student: {type: digits_mlp}
  other: {type: digits_mlp, weights: as_built}
adapters:
  proj: {type: linear, inputs: {x: student:layer1}, like: teacher:pool}
stages:
  - name: teach
    epochs: 1
    train: [teacher]
    losses: {ce: {type: cross_entropy, inputs: {input: teacher}}}
    optimizer: {type: SGD, params: {lr: 0.1}}
  - name: hint
    epochs: 1
    train: [student, proj]
    data: {train: few}
    losses: {hint: {type: mse, inputs: {input: proj, target: teacher:pool}}}
    optimizer: {type: SGD, params: {lr: 0.1}}
  - name: distill
    epochs: 1
    train: [student]
    losses: {ce: cross_entropy, kd: {type: kd}}
    optimizer: {type: SGD, params: {lr: 0.1}}
"""


def config_of(*overrides: str) -> Any:
    return kdcore.load_config(CONFIG, overrides=overrides)


@pytest.mark.parametrize(
    ("paths", "count"),
    [
        (["stages.distill.losses.kd.params.temperature"], 2),
        (["stages.2.optimizer.params.lr", "models.other.params.width"], 2),
        (["models.student.params.width"], 1),
        (["adapters.proj.type"], 1),
        (["data.few.params.samples_per_class"], 1),
        (["data.train.batch_size"], 0),
        (["models.teacher.params.width"], 0),
        (["stages.teach.epochs"], 0),
        (["seed"], 0),
        (["distributed.strategy"], 0),
        (["stages"], 0),
        (["checkpoints.keep", "description"], 2),
    ],
)
def test_stages_are_shared_as_far_as_no_parameter_reaches(paths: list[str], count: int) -> None:
    assert common_stages(config_of(), paths) == count


def test_the_last_stage_is_never_shared() -> None:
    assert common_stages(config_of(), ["description"]) == 2


def test_what_stages_use_includes_what_feeds_it() -> None:
    assert used_names(config_of(), 1) == {"teacher"}
    assert used_names(config_of(), 2) == {"teacher", "student", "proj"}


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("stages.distill.epochs=9", True),
        ("models.other.params.width=5", True),
        ("models.student.params.width=5", True),
        ("models.teacher.params.width=5", False),
        ("stages.teach.epochs=2", False),
        ("data.train.batch_size=32", False),
        ("seed=1", False),
    ],
)
def test_first_stages_are_the_same_only_if_all_that_they_use_is(override: str, same: bool) -> None:
    assert (prelude_key(config_of(), 1) == prelude_key(config_of(override), 1)) is same


def test_the_config_of_the_first_stages_has_only_what_they_use(tmp_path: Any) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(CONFIG.replace("version: 1", "version: 1\ndescription: a literal $${ stays"), encoding="utf-8")
    config = load_trial(file, ["models.student.params.width=5"], registry(), stages=1)
    assert (set(config.models), set(config.adapters), [stage.name for stage in config.stages]) == (
        {"teacher"},
        set(),
        ["teach"],
    )
    assert config.resolved["description"] == "a literal ${ stays"
