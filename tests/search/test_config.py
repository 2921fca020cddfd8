"""The section `search:`: everything that is wrong with it is said before anything trains."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcore.config.config import Config
from kdcore.config.load import load_config
from kdcore.config.reader import read_text
from kdcore.config.search_config import FinalConfig, HalvingConfig
from kdcore.config.trial import assignments, without_search
from kdcore.errors import ConfigError
from kdcore.plugins import Registry
from kdcore.search.objectives import Constraint, Objective
from tests.mistakes.good import TWO_STAGES, Edit, mistaken
from tests.mistakes.test_fuzz import bounded, mutate, outcome

SEARCH = """\
search:
  searcher: {type: random, params: {seed: 3}}
  space:
    models.student.params.width: [2, 4, 8]
    stages.distill.losses.kd.params.temperature: {low: 1.0, high: 8.0, log: true}
    stages.distill.optimizer.params.lr: {choices: [0.001, 0.01], when: {models.student.params.width: [4, 8]}}
    stages.0.epochs: {low: 1, high: 3}
  exclude: [{models.student.params.width: 8, stages.0.epochs: {low: 3}}]
  objectives:
    - {metric: val/student/accuracy, goal: maximize, weight: 2}
    - {metric: parameters, goal: minimize}
  constraints: [parameters <= 50000, val/losses/kd < 100]
  max_trials: 5
  trial: {stages.distill.epochs: 2}
"""
GOOD = TWO_STAGES + SEARCH

WIDTH = "    models.student.params.width: [2, 4, 8]\n"
RANGE = "{low: 1.0, high: 8.0, log: true}"
ACCURACY = "metric: val/student/accuracy, goal: maximize"
TRIALS = "  max_trials: 5\n"
SINGLE = ("    - {metric: parameters, goal: minimize}\n", "")


@pytest.fixture(scope="module")
def registry() -> Registry:
    """Return all that is installed, discovered once."""
    return Registry.discover()


def test_a_section_becomes_a_search(registry: Registry) -> None:
    search = load_config(GOOD, plugins=registry).search
    assert search is not None
    assert [each.path for each in search.space] == [
        "models.student.params.width",
        "stages.0.epochs",
        "stages.distill.losses.kd.params.temperature",
        "stages.distill.optimizer.params.lr",
    ]
    assert search.objectives == (Objective("val/student/accuracy", True, 2), Objective("parameters", False, 1.0))
    assert search.constraints == (Constraint("parameters", "<=", 50000), Constraint("val/losses/kd", "<", 100))
    assert (search.max_trials, search.timeout_s, search.jobs, search.storage) == (5, None, 1, None)
    assert search.trial == {"stages.distill.epochs": 2}
    assert (search.final, search.stop_early) == (None, None)
    assert search.searcher.params == {"seed": 3}
    epochs = search.space["stages.0.epochs"].domain
    assert list(epochs) == [1, 2, 3]
    assert search.space["stages.distill.losses.kd.params.temperature"].domain.size is None


def test_defaults_and_the_seed_of_the_run(registry: Registry) -> None:
    text = TWO_STAGES + (
        "seed: 7\nsearch: {space: {models.student.params.width: [2, 4]}, "
        "objectives: [{metric: train/loss, goal: minimize}], final: {}, stop_early: {after_epochs: 1}}\n"
    )
    config = load_config(text, plugins=registry)
    assert config.search is not None
    assert config.search.searcher.registered.name == "random"
    assert config.search.searcher.params == {"seed": 7}
    assert config.search.final == FinalConfig("front", 3, {})
    assert config.search.stop_early == HalvingConfig(1, 3)
    assert config.resolved["search"]["jobs"] == 1


def test_a_config_without_search_has_none(registry: Registry) -> None:
    assert load_config(TWO_STAGES, plugins=registry).search is None


def test_every_point_of_a_sound_space_is_a_config(registry: Registry) -> None:
    source = read_text(GOOD.replace(RANGE, "[1, 4]"))
    search = load_config(source, plugins=registry).search
    assert search is not None
    for point in list(search.space.enumerate())[::5]:
        config = load_config(without_search(source), overrides=assignments({**search.trial, **point}), plugins=registry)
        assert config.search is None
        assert config.models["student"].part is not None
        assert config.models["student"].part.params["width"] == point["models.student.params.width"]


def test_an_assignment_says_the_same_as_the_value(registry: Registry) -> None:
    values = {
        "name": "x-1",
        "description": "quotes \" ' : # and \\ and \u00e9 \U0001f600 \t end",
        "stages.distill.optimizer": {"type": "SGD", "params": {"lr": 1e-05, "nesterov": False}},
        "stages.distill.optimizer.params.momentum": 0.30000000000000004,
        "models.student.seed": 12,
    }
    config = load_config(TWO_STAGES, overrides=assignments(values), plugins=registry)
    assert config.resolved["description"] == values["description"]
    optimizer = config.resolved["stages"][1]["optimizer"]["params"]
    assert (optimizer["lr"], optimizer["nesterov"], optimizer["momentum"]) == (1e-05, False, 0.30000000000000004)


def test_what_is_valid_only_beside_other_values(registry: Registry) -> None:
    """The kernel of a choice may need the padding of another: alone it would be refused."""
    lines = "    stages.distill.scheduler: [{type: StepLR, params: {step_size: 1}}, {type: ExponentialLR, params: {gamma: 0.9}}]\n"
    child = "    stages.distill.scheduler.params.step_size: {choices: [1, 2], when: {stages.distill.scheduler: [{type: StepLR, params: {step_size: 1}}]}}\n"
    search = load_config(GOOD.replace(WIDTH, WIDTH + lines + child), plugins=registry).search
    assert search is not None
    assert "stages.distill.scheduler.params.step_size" in {each.path for each in search.space}


# What is wrong, and what is said; § marks the place that is named.
MISTAKES: dict[str, tuple[list[Edit], list[str]]] = {
    "a misspelt name on the way": (
        [(WIDTH, "    §models.studnt.params.width: [2]\n" + WIDTH)],
        [r"the config has no models.studnt.params.width\n *did you mean 'models.student.params.width'"],
    ),
    "a misspelt name at the end": (
        [(WIDTH, "    §models.student.params.widht: [2, 3]\n" + WIDTH)],
        [r"models.student.params.widht: unknown parameter 'widht' of model 'digits_cnn' .*\n *did you mean 'width'\?"],
    ),
    "a stage that is not there": (
        [(WIDTH, "    §stages.distil.epochs: [2, 3]\n" + WIDTH)],
        [r"stages.distil.epochs: 'stages' has no item 'distil'\n *did you mean 'distill'\?"],
    ),
    "a path that is none": (
        [(WIDTH, "    §stages..epochs: [2, 3]\n" + WIDTH)],
        [r"this is not an assignment\n *write path=value"],
    ),
    "a model that is not there": (
        [(WIDTH, "    §models.assistant: [digits_cnn]\n" + WIDTH)],
        ["the config has no models.assistant"],
    ),
    "the search itself": (
        [(WIDTH, "    §search.max_trials: [2]\n" + WIDTH)],
        ["a search cannot vary itself"],
    ),
    "the same place twice": (
        [("    stages.0.epochs: {low", "    stages.hint.epochs: [1, 2]\n    §stages.0.epochs: {low")],
        ["stages.0.epochs and stages.hint.epochs are the same place"],
    ),
    "choices that a schema refuses": (
        [("[2, 4, 8]", "[2, 4, 8, §0, §wide, §4.5]")],
        [
            r"0 is not valid here: 'width' of model 'digits_cnn' .* must be at least 1, found 0 \(models.student.params.width\)",
            r'"wide" is not valid here: .* must be a whole number',
            "4.5 is not valid here",
        ],
    ),
    "a whole value that is wrong": (
        [(WIDTH, WIDTH + "    stages.distill.balancer: [weighted_sum, §dwaa]\n")],
        [r'"dwaa" is not valid here: unknown balancer \'dwaa\' .*\n *did you mean \'dwa\'\?'],
    ),
    "an end of a range that a schema refuses": (
        [(RANGE, "{low: §-1.0, high: 8.0}")],
        [r"-1.0 is not valid here: 'temperature' of loss 'kd' .* must be more than 0"],
    ),
    "a range of any number for a whole one": (
        [("{low: 1, high: 3}", "{low: 1.0, high: §4.0}")],
        [r"2.5 is not valid here: 'epochs' must be a whole number"],
    ),
    "no choices": ([("[2, 4, 8]", "§[]")], ["must not be empty"]),
    "no parameters": (
        [(SEARCH[SEARCH.index("  space:") : SEARCH.index("  objectives:")], "  space: §{}\n")],
        ["'space' must not be empty"],
    ),
    "a number instead of a list": ([("[2, 4, 8]", "§4")], [r"must be a list or a mapping, found 4\n *write a list: \[4\]"]),
    "an empty range": ([(RANGE, "§{low: 8.0, high: 1.0}")], [r"the range is empty: low is 8.0 and high is 1.0\n *exchange"]),
    "a logarithm of zero": ([(RANGE, "§{low: 0.0, high: 1.0, log: true}")], ["a logarithmic range needs low above 0"]),
    "a step and a logarithm": (
        [(RANGE, "§{low: 1.0, high: 8.0, log: true, step: 0.5}")],
        ["a range cannot have both step and log"],
    ),
    "a step of zero": ([(RANGE, "{low: 1.0, high: 8.0, step: §0}")], ["'step' must be more than 0, found 0"]),
    "a condition on nothing": (
        [("when: {models.student.params.width: [4, 8]}", "when: {models.student.params.depth: §3}")],
        [r"the search space has no parameter 'models.student.params.depth'\n *did you mean 'models.student.params.width'"],
    ),
    "a condition that never holds": (
        [("when: {models.student.params.width: [4, 8]}", "when: {models.student.params.width: §[4, 5]}")],
        [r"active only if models.student.params.width is 5, which it never is\n *it is 2, 4, 8"],
    ),
    "conditions in a circle": (
        [("[2, 4, 8]", "{choices: [2, 4, 8], when: §{stages.distill.optimizer.params.lr: 0.01}}")],
        ["conditions go in a circle"],
    ),
    "everything excluded": (
        [("exclude: [", "exclude: §[{models.student.params.width: [2, 4, 8]}, ")],
        ["the search space is empty: every point is excluded"],
    ),
    "an infinite grid": (
        [("{type: random, params: {seed: 3}}", "§grid")],
        [r"a grid needs a finite space, but stages.distill.losses.kd.params.temperature can be any number"],
    ),
    "an unknown searcher": (
        [("{type: random, params: {seed: 3}}", "§randm")],
        [r"unknown searcher 'randm'\n *did you mean 'random'\?"],
    ),
    "params that a searcher does not have": (
        [("params: {seed: 3}", "params: {§sed: 3}")],
        [r"unknown parameter 'sed' of searcher 'random' .*\n *did you mean 'seed'\?"],
    ),
    "no trials": ([("max_trials: 5", "max_trials: §0")], ["'max_trials' must be at least 1, found 0"]),
    "fewer than no trials": ([("max_trials: 5", "max_trials: §-4")], ["'max_trials' must be at least 1, found -4"]),
    "no end": (
        [(TRIALS, ""), ("  searcher:", "  §searcher:")],
        [r"the search never ends: .*temperature can be any number of a range.*\n *give max_trials or timeout_s"],
    ),
    "an unknown metric": (
        [(ACCURACY, ACCURACY.replace("val/student/accuracy", "§val/student/acuracy"))],
        [r"no trial yields the metric 'val/student/acuracy'\n *did you mean 'val/student/accuracy'"],
    ),
    "a metric that no stage has": (
        [(ACCURACY, ACCURACY.replace("val/student/accuracy", "§bleu"))],
        [r"no trial yields the metric 'bleu'\n *known metrics: bytes, flops, latency_ms, parameters, train/loss"],
    ),
    "the test split": (
        [(ACCURACY, ACCURACY.replace("val/student/accuracy", "§test/student/accuracy"))],
        ["'test/student/accuracy' would select on the test split"],
    ),
    "validation data that is not there": (
        [("  val: {type: digits", "  check: {type: digits"), (ACCURACY, ACCURACY.replace("val/student/accuracy", "§val/loss")),
         ("    best: {metric: val/student/accuracy}\n", ""), (", val/losses/kd < 100]", "]")],
        [r"no trial yields the metric 'val/loss'\n *add an entry val to data:"],
    ),
    "the same objective twice": (
        [("metric: parameters", "metric: val/student/accuracy"), ("    - {metric: val/student/accuracy, goal: minimize",
         "    - §{metric: val/student/accuracy, goal: minimize")],
        ["'val/student/accuracy' is an objective already"],
    ),
    "a goal that is none": (
        [("goal: minimize", "goal: §smaller")],
        ["'goal' must be one of 'maximize' or 'minimize', found 'smaller'"],
    ),
    "no goal": ([("{metric: parameters, goal: minimize}", "§{metric: parameters}")], ["missing key 'goal'"]),
    "a weight of zero": ([("weight: 2", "weight: §0")], ["'weight' must be more than 0, found 0"]),
    "a constraint that is none": (
        [("parameters <= 50000", "§parameters = 50000")],
        [r"'parameters = 50000' is an equation: give a range with <= and >=\n *write metric <= number"],
    ),
    "a constraint on nothing": (
        [("parameters <= 50000", "§latncy_ms <= 5")],
        [r"no trial yields the metric 'latncy_ms'\n *did you mean 'latency_ms'\?"],
    ),
    "constraints that cannot hold together": (
        [("val/losses/kd < 100", "§parameters > 60000")],
        ["no trial can meet both parameters <= 50000 and parameters > 60000"],
    ),
    "stopping early with two objectives": (
        [(TRIALS, f"{TRIALS}  §stop_early: {{after_epochs: 1}}\n")],
        ["stop_early needs one objective to compare trials by, and there are 2: val/student/accuracy, parameters"],
    ),
    "stopping early by a size": (
        [(TRIALS, f"{TRIALS}  §stop_early: {{after_epochs: 1}}\n"),
         ("    - {metric: val/student/accuracy, goal: maximize, weight: 2}\n", "")],
        ["stop_early compares trials in training, and 'parameters' does not change by it"],
    ),
    "stopping early after the end": (
        [(TRIALS, f"{TRIALS}  stop_early: {{after_epochs: §3}}\n"), SINGLE],
        ["a trial has 3 epochs in all, so there is nothing to stop after 3"],
    ),
    "a storage for a searcher without": (
        [(TRIALS, f"{TRIALS}  storage: §search.journal\n")],
        [r"searcher 'random' .* keeps nothing in a shared storage\n *take storage out"],
    ),
    "a storage that is no database": (
        [(TRIALS, f"{TRIALS}  storage: §mysq://host/db\n"), ("{type: random, params: {seed: 3}}", "tpe")],
        [r"'mysq' is not a database that a storage can be in\n *did you mean 'mysql'"],
    ),
    "a trial that sets what is searched": (
        [("trial: {", "trial: {§models.student.params.width: 4, ")],
        ["the space varies models.student.params.width, so trial: cannot set it"],
    ),
    "a trial that sets something wrong": (
        [("stages.distill.epochs: 2", "stages.distill.epochs: §0")],
        ["0 is not valid here: 'epochs' must be at least 1, found 0"],
    ),
    "final runs that set something wrong": (
        [(TRIALS, f"{TRIALS}  final: {{choose: §beste, at_most: §0, overrides: {{stages.distill.epocs: §40}}}}\n")],
        ["'choose' must be one of 'best', 'front' or 'knee', found 'beste'", "'at_most' must be at least 1",
         r"40 is not valid here: unknown key 'epocs' \(stages.distill.epocs\)\n *did you mean 'epochs'"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str, tmp_path: Path, registry: Registry) -> None:
    edits, messages = MISTAKES[name]
    wrong = mistaken(tmp_path / "kd.yaml", GOOD, *edits)
    with pytest.raises(ConfigError) as caught:
        load_config(wrong.file, plugins=registry)
    text = str(caught.value)
    assert len(caught.value.problems) == max(len(wrong.positions), 1), text
    for position in wrong.positions:
        assert position in text, f"{position} is not in\n{text}"
    for message in messages:
        assert re.search(message, text), f"{message} is not in\n{text}"


def test_everything_is_said_at_once(tmp_path: Path, registry: Registry) -> None:
    edits = [
        ("[2, 4, 8]", "[2, §0, 4, 8]"),
        (RANGE, "§{low: 8.0, high: 1.0}"),
        ("max_trials: 5", "max_trials: §0"),
        ("parameters <= 50000", "§parameters"),
        ("params: {seed: 3}", "params: {seed: §-1}"),
        ("temperature: 4", "temperature: §none"),
    ]
    text = GOOD.replace("    best: {metric: val/student/accuracy}\n", "")
    wrong = mistaken(tmp_path / "kd.yaml", text, *edits)
    with pytest.raises(ConfigError) as caught:
        load_config(wrong.file, plugins=registry)
    assert len(wrong.positions) == len(caught.value.problems) == 6
    for position in wrong.positions:
        assert position in str(caught.value), f"{position} is not in\n{caught.value}"


def test_a_model_may_be_named_whose_size_is_meant(registry: Registry) -> None:
    search = load_config(GOOD.replace("metric: parameters", "metric: teacher/flops"), plugins=registry).search
    assert search is not None
    assert search.objectives[1].metric == "teacher/flops"


def test_a_loop_of_ones_own_is_not_asked_for_trials(registry: Registry) -> None:
    """The models of build_objective have no type, so no value can be tried."""
    text = GOOD.replace("{type: digits_cnn, params: {width: 2, depth: 2}}", "{}")
    assert load_config(text, external_models=["student", "teacher"], plugins=registry).search is not None


@bounded(30)
@given(data=st.data())
def test_a_mutated_section_is_refused_with_messages(registry: Registry, data: st.DataObject) -> None:
    node: dict[str, Any] = copy.deepcopy(read_text(GOOD).data)
    for _ in range(data.draw(st.integers(1, 4))):
        # What is put in is shared between examples.
        node["search"] = copy.deepcopy(mutate(node["search"], data))
        if not isinstance(node["search"], (dict, list)):
            break
    found = outcome(json.dumps(node) + "\n", registry)
    if isinstance(found, Config) and found.search is not None:
        assert found.search.space.size() != 0
