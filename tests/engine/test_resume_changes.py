"""Runs that are resumed under another config: what was learned goes on, and the settings are those given now."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcore.config.load import load_config
from kdcore.engine.checkpoint import read_checkpoint, save_checkpoint
from kdcore.engine.interrupt import Interrupted
from kdcore.engine.progress import Progress
from kdcore.engine.run import run
from kdcore.errors import RunError

BASE = """\
version: 1
name: changing
output_dir: {folder}
data:
  train: {{type: digits, params: {{split: train, samples_per_class: 4}}, batch_size: 8, shuffle: true}}
  val: {{type: digits, params: {{split: val, samples_per_class: 2}}, batch_size: 256}}
models:
  student: {{type: digits_mlp, params: {{width: 4}}}}
stages:
  - name: one
    epochs: 2
    train: [student]
    losses: {{ce: cross_entropy}}
    optimizer: {{type: SGD, params: {{lr: 0.1, momentum: 0.9}}}}
"""
STEPS = 5
AUTO = [
    {"type": "CosineAnnealingLR"},
    {"type": "CosineAnnealingLR", "interval": "step"},
    {"type": "LinearLR", "params": {"total_iters": "auto"}, "interval": "step"},
    {"type": "PolynomialLR", "params": {"total_iters": "auto", "power": 2}},
    {"type": "ConstantLR", "params": {"total_iters": "auto"}},
    {"type": "OneCycleLR", "params": {"max_lr": 0.2}},
    {"type": "OneCycleLR", "params": {"max_lr": 0.2, "epochs": "auto"}},
    {"type": "OneCycleLR", "params": {"max_lr": 0.2}, "interval": "epoch"},
    {
        "type": "SequentialLR",
        "params": {
            "schedulers": [{"type": "LinearLR", "params": {"total_iters": "auto"}}, "CosineAnnealingLR"],
            "milestones": [3],
        },
        "interval": "step",
    },
    {
        "type": "ChainedScheduler",
        "params": {"schedulers": ["CosineAnnealingLR", {"type": "ExponentialLR", "params": {"gamma": 0.9}}]},
    },
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no disk and draw no report: neither is what is tried here."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("kdcore.engine.run.write_report", lambda folder: folder)


class Heard(Progress):
    """Keeps messages, and may end the run by a signal after a number of steps."""

    def __init__(self, stop: int = 0) -> None:
        self.messages: list[str] = []
        self.left = stop

    def message(self, text: str) -> None:
        self.messages.append(text)

    def step_ended(self, terms: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    @property
    def changes(self) -> list[str]:
        return [text for text in self.messages if re.search(r" from step \d+ on$", text)]


def config_of(folder: Path, *overrides: str) -> Any:
    return load_config(BASE.format(folder=folder), overrides=overrides)


def put(**values: Any) -> list[str]:
    """Return overrides of the stage."""
    return [f"stages.one.{key.replace('__', '.')}={json.dumps(value)}" for key, value in values.items()]


def begun(folder: Path, *overrides: str, stop: int = 0) -> Path:
    """Train two epochs, or until `stop` steps are made."""
    progress = Heard(stop)
    if stop:
        with pytest.raises(Interrupted):
            run(config_of(folder, *overrides), progress=progress)
        (found,) = (folder / "changing").iterdir()
        return found
    return run(config_of(folder, *overrides), progress=progress)


def resumed(folder: Path, *overrides: str) -> Heard:
    """Go on in a run folder with what its config says and changes."""
    progress = Heard()
    config = load_config(folder / "config.yaml", overrides=overrides)
    run(config, progress=progress, resume=folder, accept_changes=True)
    return progress


def rates(folder: Path) -> list[list[float]]:
    return [json.loads(line)["lr"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def state(folder: Path) -> dict[str, Any]:
    """Return the newest state of training."""
    return read_checkpoint(sorted((folder / "checkpoints" / "one").glob("epoch-*"))[-1]).state


def optimizer_of(folder: Path) -> dict[str, Any]:
    return state(folder)["trainer"]["optimizer"]  # type: ignore[no-any-return]


def group_of(folder: Path) -> dict[str, Any]:
    (found,) = optimizer_of(folder)["param_groups"]
    return found  # type: ignore[no-any-return]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(sorted((folder / "checkpoints" / "one").glob("epoch-*"))[-1]).whole


def test_a_new_rate_and_momentum_are_in_force_and_told(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    heard = resumed(folder, *put(optimizer__params__lr=0.001, optimizer__params__momentum=0.5, epochs=4))
    assert rates(folder) == [[0.1], [0.1], [0.001], [0.001]]
    assert group_of(folder)["momentum"] == 0.5
    assert heard.changes == ["stage one: lr 0.1 -> 0.001, momentum 0.9 -> 0.5 from step 10 on"]


def by_hand(folder: Path, copy: Path, changes: dict[str, Any]) -> Path:
    """Write other hyperparameters into the newest state of a copy of a run, and train one epoch from there."""
    shutil.copytree(folder, copy)
    path = sorted((copy / "checkpoints" / "one").glob("epoch-*"))[-1]
    saved = read_checkpoint(path)
    tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}
    for group in saved.state["trainer"]["optimizer"]["param_groups"]:
        group.update(tuples)
    save_checkpoint(path, saved.whole, saved.state)
    resumed(copy, *put(epochs=3))
    return copy


@pytest.mark.parametrize(
    ("name", "params", "changes"),
    [
        ("SGD", {"lr": 0.1, "momentum": 0.9}, {"weight_decay": 0.01}),
        ("SGD", {"lr": 0.1, "momentum": 0.9}, {"lr": 0.02, "momentum": 0.8, "nesterov": True}),
        ("Adam", {"lr": 0.01}, {"lr": 0.002, "betas": [0.8, 0.99]}),
        ("AdamW", {"lr": 0.01}, {"weight_decay": 0.5}),
    ],
)
def test_hyperparameters_come_from_the_config_and_state_is_kept(
    tmp_path: Path, name: str, params: dict[str, Any], changes: dict[str, Any]
) -> None:
    optimizer = {"type": name, "params": params}
    folder = begun(tmp_path, *put(optimizer=optimizer))
    learned = optimizer_of(folder)["state"]
    copied = by_hand(folder, tmp_path / "copy", changes)
    resumed(folder, *put(optimizer={"type": name, "params": params | changes}, epochs=3))

    kept = {key: tuple(value) if isinstance(value, list) else value for key, value in (params | changes).items()}
    after = optimizer_of(folder)
    assert {key: after["param_groups"][0][key] for key in kept} == kept
    assert after["state"].keys() == learned.keys()
    assert all(torch.equal(value, tensors(copied)[key]) for key, value in tensors(folder).items())
    if name != "SGD":
        assert {float(each["step"]) for each in after["state"].values()} == {3.0 * STEPS}


# Every other one in the middle of an epoch.
@pytest.mark.parametrize(("scheduler", "stop"), list(zip(AUTO, itertools.cycle([0, 7]), strict=False)))
def test_a_longer_stage_has_the_rates_that_it_would_have_had(
    tmp_path: Path, scheduler: dict[str, Any], stop: int
) -> None:
    folder = begun(tmp_path / "short", *put(scheduler=scheduler), stop=stop)
    heard = resumed(folder, *put(epochs=5))
    longer = run(config_of(tmp_path / "long", *put(scheduler=scheduler, epochs=5)), quiet=True)
    done = stop // STEPS if stop else 2
    assert rates(folder)[done:] == rates(longer)[done:]
    assert len(rates(folder)) == 5
    assert group_of(folder) == group_of(longer)
    assert state(folder)["trainer"]["scheduler"] == state(longer)["trainer"]["scheduler"]
    (said,) = heard.changes
    assert said.endswith(f"from step {stop or 10} on")


def test_params_of_a_schedule_are_in_force(tmp_path: Path) -> None:
    folder = begun(tmp_path, *put(scheduler={"type": "ExponentialLR", "params": {"gamma": 0.5}}))
    heard = resumed(folder, *put(scheduler__params__gamma=0.9, epochs=4))
    assert [rate for (rate,) in rates(folder)] == pytest.approx([0.1, 0.05, 0.1 * 0.9**2, 0.1 * 0.9**3])
    assert heard.changes == ["stage one: lr 0.025 -> 0.081, gamma 0.5 -> 0.9 from step 10 on"]


def test_the_rate_of_a_schedule_changes_with_the_one_that_it_starts_from(tmp_path: Path) -> None:
    folder = begun(tmp_path, *put(scheduler={"type": "ExponentialLR", "params": {"gamma": 0.5}}))
    resumed(folder, *put(optimizer__params__lr=0.4, epochs=4))
    assert rates(folder) == [[0.1], [0.05], [0.1], [0.05]]


@pytest.mark.parametrize(
    ("before", "after", "expected", "said"),
    [
        (None, {"type": "StepLR", "params": {"step_size": 1, "gamma": 0.5}}, 0.025, "none -> StepLR"),
        ({"type": "StepLR", "params": {"step_size": 1, "gamma": 0.5}}, None, 0.1, "StepLR -> none"),
        (
            {"type": "StepLR", "params": {"step_size": 1, "gamma": 0.5}},
            {"type": "ExponentialLR", "params": {"gamma": 0.9}},
            0.1 * 0.9**2,
            "StepLR -> ExponentialLR",
        ),
    ],
)
def test_a_schedule_may_come_go_or_be_another(
    tmp_path: Path, before: Any, after: Any, expected: float, said: str
) -> None:
    folder = begun(tmp_path, *(put(scheduler=before) if before else []))
    config = config_of(tmp_path, *(put(scheduler=after) if after else []), *put(epochs=3))
    progress = Heard()
    run(config, progress=progress, resume=folder, accept_changes=True)
    assert rates(folder)[2] == [pytest.approx(expected)]
    assert f"scheduler {said}" in progress.changes[0]


def plateau(**params: Any) -> dict[str, Any]:
    # A threshold that nothing passes: each epoch but the first is a bad one.
    return {"type": "ReduceLROnPlateau", "params": {"monitor": "train/loss", "threshold": 0.99, **params}}


def test_a_plateau_keeps_its_counts_and_its_rate(tmp_path: Path) -> None:
    folder = begun(tmp_path, *put(scheduler=plateau(patience=0), epochs=3))
    assert rates(folder)[2] == [pytest.approx(0.01)]
    before = state(folder)["trainer"]["scheduler"]["state"]
    resumed(folder, *put(scheduler__params__factor=0.5, scheduler__params__patience=1, epochs=5))
    after = state(folder)["trainer"]["scheduler"]["state"]
    assert [rate for (rate,) in rates(folder)] == pytest.approx([0.1, 0.1, 0.01, 0.001, 0.001])
    assert (after["best"], after["factor"], after["patience"]) == (before["best"], 0.5, 1)
    assert after["last_epoch"] == 5


def test_a_new_rate_ends_what_a_plateau_has_reduced(tmp_path: Path) -> None:
    folder = begun(tmp_path, *put(scheduler=plateau(patience=0), epochs=3))
    resumed(folder, *put(optimizer__params__lr=0.3, epochs=4))
    assert rates(folder)[3] == [0.3]


def test_another_mode_of_a_plateau_begins_to_count(tmp_path: Path) -> None:
    folder = begun(tmp_path, *put(scheduler=plateau(patience=5)))
    resumed(folder, *put(scheduler__params__mode="max", epochs=3))
    saved = state(folder)["trainer"]["scheduler"]["state"]
    assert saved["mode"] == "max"
    assert saved["num_bad_epochs"] == 0


def lowered(folder: Path) -> None:
    """Let the newest state say that lower_rate has come to a quarter."""
    path = sorted((folder / "checkpoints" / "one").glob("epoch-*"))[-1]
    saved = read_checkpoint(path)
    saved.state["trainer"]["guard"] = {"skipped": 2, "scale": 0.25}
    save_checkpoint(path, saved.whole, saved.state)


LOWER = put(on_nonfinite={"action": "lower_rate", "factor": 0.5, "limit": 5})


def test_a_new_rate_ends_what_lower_rate_has_reduced(tmp_path: Path) -> None:
    folder = begun(tmp_path, *LOWER)
    lowered(folder)
    heard = resumed(folder, *put(optimizer__params__lr=0.05, epochs=3))
    assert rates(folder)[2] == [0.05]
    assert state(folder)["trainer"]["guard"] == {"skipped": 2, "scale": 1.0}
    assert heard.changes == [
        "stage one: lr 0.025 -> 0.05, the factor 0.25 of lower_rate ends with the new learning rate from step 10 on"
    ]


def test_lower_rate_holds_where_the_rate_is_the_same(tmp_path: Path) -> None:
    folder = begun(tmp_path, *LOWER)
    lowered(folder)
    step = {"type": "StepLR", "params": {"step_size": 1, "gamma": 0.5}}
    heard = resumed(folder, *put(optimizer__params__momentum=0.5, scheduler=step, epochs=3))
    assert rates(folder)[2] == [0.00625]
    said = "lr 0.025 -> 0.00625, momentum 0.9 -> 0.5, scheduler none -> StepLR"
    assert heard.changes == [f"stage one: {said} from step 10 on"]


def test_another_optimizer_begins_its_state_anew(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    heard = resumed(folder, *put(optimizer={"type": "Adam", "params": {"lr": 0.01}}, epochs=3))
    assert rates(folder)[2] == [0.01]
    assert {float(each["step"]) for each in optimizer_of(folder)["state"].values()} == {float(STEPS)}
    assert heard.changes == [
        "stage one: lr 0.1 -> 0.01, the optimizer's state begins anew (SGD -> Adam) from step 10 on"
    ]


@pytest.mark.parametrize(
    ("name", "params", "changes", "said"),
    [
        ("Adam", {}, {"amsgrad": True}, "it has no max_exp_avg_sq yet"),
        ("RMSprop", {}, {"centered": True, "momentum": 0.9}, "it has no grad_avg, momentum_buffer yet"),
        ("Rprop", {}, {"lr": 0.002}, "lr of Rprop is what it begins with"),
        ("Adagrad", {}, {"initial_accumulator_value": 1.0}, "initial_accumulator_value of Adagrad is what it begins"),
    ],
)
def test_settings_that_need_other_state_begin_it_anew(
    tmp_path: Path, name: str, params: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    folder = begun(tmp_path, *put(optimizer={"type": name, "params": params}))
    heard = resumed(folder, *put(optimizer={"type": name, "params": params | changes}, epochs=3))
    assert f"the optimizer's state begins anew ({said}" in heard.changes[0]
    assert {float(each["step"]) for each in optimizer_of(folder)["state"].values()} == {float(STEPS)}


def test_state_follows_parameters_into_other_groups(tmp_path: Path) -> None:
    optimizer = {"type": "Adam", "params": {"lr": 0.01, "weight_decay": 0.1}}
    folder = begun(tmp_path, *put(optimizer=optimizer))
    before = tensors(folder)
    groups = [{"pattern": "*.bias", "params": {"weight_decay": 0.0}}]
    heard = resumed(folder, *put(optimizer={**optimizer, "groups": groups}, epochs=3))
    after = optimizer_of(folder)
    assert [each["weight_decay"] for each in after["param_groups"]] == [0.1, 0.0]
    assert {float(each["step"]) for each in after["state"].values()} == {3.0 * STEPS}
    biases = [after["state"][index]["exp_avg"] for index in after["param_groups"][1]["params"]]
    assert [each.dim() for each in biases] == [1] * sum(name.endswith("bias") for name in before)
    assert heard.changes == [
        f"stage one: weight_decay 0.1 -> 0.1, 0, the groups of parameters ({len(before)} parameters kept, 0 new, 0 gone) "
        "from step 10 on"
    ]


def test_parameters_that_train_from_now_on_begin_their_state(tmp_path: Path) -> None:
    optimizer = {"type": "Adam", "params": {"lr": 0.01}}
    folder = begun(tmp_path, *put(optimizer=optimizer, freeze=["student.*.bias"]))
    run(config_of(tmp_path, *put(optimizer=optimizer, epochs=3)), quiet=True, resume=folder, accept_changes=True)
    assert {float(each["step"]) for each in optimizer_of(folder)["state"].values()} == {STEPS, 3.0 * STEPS}


def test_without_changes_nothing_is_told_and_no_bit_differs(tmp_path: Path) -> None:
    groups = [{"pattern": "*.bias", "params": {"weight_decay": 0.0}}]
    optimizer = {"type": "AdamW", "params": {"lr": 0.01}, "groups": groups}
    stage = put(optimizer=optimizer, scheduler={"type": "OneCycleLR", "params": {"max_lr": [0.02, 0.01]}}, epochs=3)
    folder = begun(tmp_path / "short", *stage, stop=7)
    heard = resumed(folder)
    whole = run(config_of(tmp_path / "whole", *stage), quiet=True)
    assert heard.changes == []
    assert rates(folder) == rates(whole)
    one, two = tensors(folder), tensors(whole)
    assert all(torch.equal(one[name], two[name]) for name in two)
    assert state(folder)["trainer"]["built"] == state(whole)["trainer"]["built"]


def test_a_change_holds_when_the_run_is_interrupted_and_resumed_again(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    changes = put(optimizer__params__lr=0.001, epochs=4)
    config = load_config(folder / "config.yaml", overrides=changes)
    with pytest.raises(Interrupted):
        run(config, progress=Heard(3), resume=folder, accept_changes=True)
    progress = Heard()
    run(load_config(folder / "config.yaml"), progress=progress, resume=folder)
    assert rates(folder) == [[0.1], [0.1], [0.001], [0.001]]
    assert progress.changes == []


def test_a_state_of_an_earlier_version_goes_on_as_it_was_and_says_so(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    path = sorted((folder / "checkpoints" / "one").glob("epoch-*"))[-1]
    saved = read_checkpoint(path)
    del saved.state["trainer"]["built"]
    save_checkpoint(path, saved.whole, saved.state)
    heard = resumed(folder, *put(optimizer__params__lr=0.001, epochs=3))
    assert rates(folder)[2] == [0.1]
    assert any("does not say which optimizer and scheduler it is of" in text for text in heard.messages)


def val(mode: str) -> dict[str, str]:
    return {"metric": "val/loss", "mode": mode}


def test_another_mode_chooses_the_best_epoch_anew(tmp_path: Path) -> None:
    folder = begun(tmp_path, *put(best=val("min"), early_stop={**val("min"), "patience": 9}))
    heard = resumed(folder, *put(best=val("max"), early_stop={**val("max"), "patience": 9}, epochs=3))
    after = state(folder)
    assert (after["best"]["mode"], after["best"]["best_epoch"]) == ("max", 2)
    assert (after["patience"]["best_epoch"], after["patience"]["waited"]) == (2, 0)
    for key in ("best", "early_stop"):
        assert (
            f"stage one: {key}: val/loss (min) is now val/loss (max), so epochs are compared from epoch 3 on"
            in heard.messages
        )


def test_the_same_metric_is_compared_with_the_best_so_far(tmp_path: Path) -> None:
    folder = begun(tmp_path, *put(best=val("max")))
    before = state(folder)["best"]
    resumed(folder, *put(optimizer__params__lr=0.2, epochs=3))
    after = state(folder)["best"]
    assert after["best"] >= before["best"]
    assert after["best_epoch"] in (before["best_epoch"], 2)


def test_patience_that_is_over_by_now_ends_the_stage(tmp_path: Path) -> None:
    stop = {**val("max"), "patience": 9, "min_delta": 1000.0}
    folder = begun(tmp_path, *put(early_stop=stop, epochs=3))
    resumed(folder, *put(early_stop={**stop, "patience": 2}, epochs=6))
    assert len(rates(folder)) == 3


def test_the_params_of_a_loss_are_in_force(tmp_path: Path) -> None:
    def weighted(weight: list[float] | None) -> list[str]:
        return put(losses={"ce": {"type": "cross_entropy", "params": {"weight": weight, "reduction": "sum"}}})

    slow = put(optimizer__params__lr=1e-9)
    folder = begun(tmp_path, *weighted([1.0] * 10), *slow)
    resumed(folder, *weighted([0.0] * 10), *put(epochs=3))
    resumed(folder, *weighted(None), *put(epochs=4))
    lines = [json.loads(line)["metrics"]["train/loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == pytest.approx([lines[0], lines[0], 0.0, lines[0]], rel=1e-4)


def test_metrics_that_begin_in_the_middle_of_an_epoch_count_its_rest(tmp_path: Path) -> None:
    folder = begun(tmp_path, *put(epochs=3), stop=7)
    resumed(folder, *put(metrics={"kinds": ["accuracy", {"type": "top_k", "k": 2}]}))
    lines = [json.loads(line)["metrics"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert ["train/student/top_2" in line for line in lines] == [False, True, True]
    assert all(line["train/student/top_2"] >= line["train/student/accuracy"] for line in lines[1:])


def test_the_rest_of_an_epoch_is_counted_in_the_steps_of_now(tmp_path: Path) -> None:
    cosine = {"type": "CosineAnnealingLR", "interval": "step"}
    folder = begun(tmp_path, *put(scheduler=cosine, epochs=4), stop=7)
    heard = resumed(folder, *put(accumulate=2))
    # The second epoch went on after sample 16 of 40: one step of 16 is behind it, and two are left.
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 9, 12, 15]
    longer = run(config_of(tmp_path / "whole", *put(scheduler=cosine, epochs=4, accumulate=2)), quiet=True)
    assert rates(folder)[1:] == rates(longer)[1:]
    assert "T_max 20 -> 12" in heard.changes[0]


def test_an_epoch_that_cannot_go_on_where_it_was_left_is_refused(tmp_path: Path) -> None:
    folder = begun(tmp_path, *put(epochs=4), stop=8)
    with pytest.raises(
        RunError,
        match=r"stage 'one' was saved after 24 samples of an epoch \(3 steps of 8\), which is no number of steps of 16"
        r"(.|\n)*finish the epoch with the batch_size and accumulate that it was begun with",
    ):
        resumed(folder, *put(accumulate=2))


PRUNING = {"criterion": "magnitude", "target_sparsity": 0.5, "schedule": {"type": "linear", "every": 2}}


def test_pruning_goes_on_by_its_longer_schedule_and_takes_nothing_back(tmp_path: Path) -> None:
    folder = begun(tmp_path, *put(pruning=[PRUNING]))
    resumed(folder, *put(epochs=4))
    lines = [json.loads(line)["metrics"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    # By itself the longer schedule would have had less than half after the third epoch's masks.
    assert [line["sparsity"] for line in lines[1:]] == [0.5, 0.5, 0.5]


def test_pruning_that_ends_is_told(tmp_path: Path) -> None:
    folder = begun(tmp_path, *put(pruning=[PRUNING]))
    heard = Heard()
    run(config_of(tmp_path, *put(epochs=3)), progress=heard, resume=folder, accept_changes=True)
    assert heard.changes == ["stage one: pruning ends, and its zeros do not last from step 10 on"]


def test_another_criterion_is_refused_before_training(tmp_path: Path) -> None:
    folder = begun(tmp_path, *put(pruning=[PRUNING]))
    with pytest.raises(RunError, match="pruning has begun with criterion magnitude, and is now to go on with random"):
        resumed(folder, *put(pruning=[{**PRUNING, "criterion": "random"}], epochs=3))
    assert len(rates(folder)) == 2
    # The change is not in the folder either: the run goes on as it was, with another one.
    heard = resumed(folder, *put(epochs=3))
    assert [text for text in heard.messages if "criterion" in text] == []
    assert len(rates(folder)) == 3
