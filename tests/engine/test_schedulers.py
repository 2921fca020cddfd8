from __future__ import annotations

import copy
import inspect
import io
import math
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from kdcore.config.schemas import load_schema
from kdcore.engine.schedulers import Stepper, build_scheduler
from kdcore.errors import ConfigError, Place, RunError, WiringError

EPOCHS, STEPS = 6, 4
REGENERATE = "torch and schemas/schedulers.json differ: run `python scripts/torch_schemas.py` and review the change"
REFUSED = {"LambdaLR", "MultiplicativeLR"}
NAMES = set(lr_scheduler.__all__) - {"LRScheduler"}

# A config of each scheduler, and the same by hand.
CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "StepLR": ({"step_size": 2}, lambda opt: lr_scheduler.StepLR(opt, 2)),
    "MultiStepLR": ({"milestones": [2, 4]}, lambda opt: lr_scheduler.MultiStepLR(opt, [2, 4])),
    "ConstantLR": ({"total_iters": 3}, lambda opt: lr_scheduler.ConstantLR(opt, total_iters=3)),
    "LinearLR": ({"total_iters": "auto"}, lambda opt: lr_scheduler.LinearLR(opt, total_iters=EPOCHS)),
    "ExponentialLR": ({"gamma": 0.5}, lambda opt: lr_scheduler.ExponentialLR(opt, 0.5)),
    "CosineAnnealingLR": ({}, lambda opt: lr_scheduler.CosineAnnealingLR(opt, EPOCHS)),
    "PolynomialLR": (
        {"total_iters": "auto", "power": 2},
        lambda opt: lr_scheduler.PolynomialLR(opt, EPOCHS, power=2.0),
    ),
    "CosineAnnealingWarmRestarts": ({"T_0": 2}, lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 2)),
    "CyclicLR": (
        {"base_lr": [0.1, 0.2], "max_lr": 1, "step_size_up": 3},
        lambda opt: lr_scheduler.CyclicLR(opt, [0.1, 0.2], 1.0, step_size_up=3),
    ),
    "OneCycleLR": ({"max_lr": 1}, lambda opt: lr_scheduler.OneCycleLR(opt, 1.0, total_steps=EPOCHS * STEPS)),
    "ReduceLROnPlateau": (
        {"monitor": "val/loss", "patience": 0},
        lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=0),
    ),
    "SequentialLR": (
        {
            "schedulers": [{"type": "LinearLR", "params": {"total_iters": "auto"}}, "CosineAnnealingLR"],
            "milestones": [2],
        },
        lambda opt: lr_scheduler.SequentialLR(
            opt, [lr_scheduler.LinearLR(opt, total_iters=2), lr_scheduler.CosineAnnealingLR(opt, EPOCHS - 2)], [2]
        ),
    ),
    "ChainedScheduler": (
        {"schedulers": ["ConstantLR", {"type": "ExponentialLR", "params": {"gamma": 0.9}}]},
        lambda opt: lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(opt), lr_scheduler.ExponentialLR(opt, 0.9)]),
    ),
}
LOSSES = [3.0, 2.0, 2.5, 1.0, 1.5, 2.0]


def optimizer(cls: Any = torch.optim.SGD, **options: Any) -> torch.optim.Optimizer:
    first, second = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    return cls([{"params": [first]}, {"params": [second], "lr": 0.2}], lr=0.4, **options)


def build(config: Any, opt: torch.optim.Optimizer, **options: Any) -> Stepper:
    return build_scheduler(config, opt, total_steps=EPOCHS * STEPS, steps_per_epoch=STEPS, epochs=EPOCHS, **options)


def config_of(name: str) -> dict[str, Any]:
    return {"type": name, "params": CASES[name][0]}


def run(stepper: Stepper, epochs: range) -> list[list[float]]:
    """Train nothing; return the rates of every step and of the end of every epoch."""
    rates = []
    for epoch in epochs:
        for _ in range(STEPS):
            rates.append(stepper.last_lr())
            stepper.scheduler.optimizer.step()
            stepper.step_ended()
        stepper.epoch_ended({"val/loss": LOSSES[epoch], "val/student/accuracy": 0.5})
        rates.append(stepper.last_lr())
    return rates


def test_file_lists_the_schedulers_of_torch() -> None:
    assert set(load_schema("schedulers")["$defs"]) == NAMES, REGENERATE
    assert set(CASES) == NAMES - REFUSED


@pytest.mark.parametrize("name", sorted(CASES))
def test_file_has_names_and_defaults_of_torch(name: str) -> None:
    properties = dict(load_schema("schedulers")["$defs"][name]["properties"])
    if name == "ReduceLROnPlateau":
        assert "default" not in properties.pop("monitor")
    expected = {
        key: each.default
        for key, each in inspect.signature(getattr(lr_scheduler, name)).parameters.items()
        if key not in ("optimizer", "last_epoch", "verbose")
    }
    if name == "CosineAnnealingLR":
        expected["T_max"] = "auto"
    assert {key: each.get("default", inspect.Parameter.empty) for key, each in properties.items()} == expected, (
        REGENERATE
    )


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_scheduler_moves_as_torch_makes_it(name: str) -> None:
    config = config_of(name)
    before = copy.deepcopy(config)
    ours, theirs = optimizer(momentum=0.9), optimizer(momentum=0.9)
    stepper, reference = build(config, ours), CASES[name][1](theirs)
    assert type(stepper.scheduler) is type(reference)
    per_step = name in ("OneCycleLR", "CyclicLR")
    assert stepper.interval == ("step" if per_step else "epoch")
    rates, expected = run(stepper, range(EPOCHS)), []
    for epoch in range(EPOCHS):
        for _ in range(STEPS):
            expected.append([group["lr"] for group in theirs.param_groups])
            theirs.step()
            if per_step:
                reference.step()
        if not per_step:
            reference.step(*([LOSSES[epoch]] if name == "ReduceLROnPlateau" else []))
        expected.append([group["lr"] for group in theirs.param_groups])
    assert rates == expected
    assert len({tuple(each) for each in rates}) > 1
    assert config == before


@pytest.mark.parametrize("name", sorted(CASES))
def test_resuming_goes_on_with_the_same_rates(name: str) -> None:
    whole = run(build(config_of(name), optimizer(momentum=0.9)), range(EPOCHS))
    first = build(config_of(name), optimizer(momentum=0.9))
    rates = run(first, range(3))
    file = io.BytesIO()
    torch.save({"optimizer": first.scheduler.optimizer.state_dict(), "scheduler": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = optimizer(momentum=0.9)
    second = build(config_of(name), again)
    again.load_state_dict(saved["optimizer"])
    before = copy.deepcopy(saved["scheduler"])
    second.load_state_dict(saved["scheduler"])
    assert rates + run(second, range(3, EPOCHS)) == whole
    assert saved["scheduler"] == before


def test_saved_state_does_not_move_on() -> None:
    stepper = build(config_of("SequentialLR"), optimizer())
    saved = stepper.state_dict()
    before = copy.deepcopy(saved)
    run(stepper, range(3))
    assert saved == before
    assert stepper.state_dict() != before


def test_state_of_another_class_is_refused() -> None:
    state = build(config_of("StepLR"), optimizer()).state_dict()
    with pytest.raises(RunError, match="the saved scheduler is StepLR, this one ExponentialLR"):
        build(config_of("ExponentialLR"), optimizer()).load_state_dict(state)


@pytest.mark.parametrize(("interval", "total"), [("epoch", EPOCHS), ("step", EPOCHS * STEPS)])
def test_cosine_ends_with_the_stage(interval: str, total: int) -> None:
    stepper = build({"type": "CosineAnnealingLR", "interval": interval}, optimizer())
    run(stepper, range(3))
    half = 0.5 * (1 + math.cos(math.pi * (total // 2) / total))
    assert stepper.last_lr() == pytest.approx([0.4 * half, 0.2 * half])
    run(stepper, range(3, EPOCHS))
    assert stepper.last_lr() == pytest.approx([0, 0], abs=1e-9)


def test_sequence_fills_each_part_to_its_milestone() -> None:
    warm_up = {"type": "LinearLR", "params": {"start_factor": 0.25, "total_iters": "auto"}}
    params = {"schedulers": [warm_up, {"type": "CosineAnnealingLR"}], "milestones": [2 * STEPS]}
    stepper = build({"type": "SequentialLR", "params": params, "interval": "step"}, optimizer())
    rates = [first for first, _ in run(stepper, range(EPOCHS))]
    assert rates[0] == pytest.approx(0.1)
    assert rates[STEPS // 2] == pytest.approx(0.4 * (0.25 + 0.75 * (STEPS // 2) / (2 * STEPS)))
    assert max(rates) == rates[2 * STEPS + 1] == pytest.approx(0.4)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_sequence_of_a_shortened_run() -> None:
    params = {"schedulers": ["LinearLR", "CosineAnnealingLR"], "milestones": [100]}
    stepper = build({"type": "SequentialLR", "params": params}, optimizer())
    assert run(stepper, range(EPOCHS))[-1] == pytest.approx([0.4, 0.2])


@pytest.mark.parametrize("total", [{}, {"epochs": "auto"}, {"total_steps": "auto"}])
def test_one_cycle_rises_and_falls_over_the_stage(total: dict[str, Any]) -> None:
    config = {"type": "OneCycleLR", "params": {"max_lr": 2, "pct_start": 0.25, "div_factor": 4, **total}}
    rates = [first for first, _ in run(build(config, optimizer(momentum=0.9)), range(EPOCHS))]
    assert rates[0] == pytest.approx(0.5)
    assert max(rates) == pytest.approx(2)
    assert rates.index(max(rates)) == EPOCHS * STEPS // 4  # one row per epoch's end lies before it
    assert rates[-2] == pytest.approx(0.5 / 1e4)  # the last step; the row after it is never used


def test_one_cycle_in_epochs() -> None:
    stepper = build({"type": "OneCycleLR", "params": {"max_lr": 2}, "interval": "epoch"}, optimizer(momentum=0.9))
    assert stepper.scheduler.total_steps == EPOCHS
    assert len({first for first, _ in run(stepper, range(EPOCHS))}) == EPOCHS + 1


def test_one_cycle_shorter_than_the_stage() -> None:
    config = {"type": "OneCycleLR", "params": {"max_lr": 2, "total_steps": 10}}
    with pytest.raises(WiringError, match=r"(?s)over after 10 steps, but the stage has 24.*total_steps: auto"):
        build(config, optimizer(momentum=0.9))


def test_phase_without_length() -> None:
    config = {"type": "OneCycleLR", "params": {"max_lr": 2, "total_steps": 40, "pct_start": 1 / 40}}
    with pytest.raises(WiringError, match=r"(?s)OneCycleLR of torch fails: .*division by zero.*no length"):
        build(config, optimizer(momentum=0.9))


def test_cycle_without_momentum_is_refused_by_torch() -> None:
    with pytest.raises(WiringError, match=r"OneCycleLR of torch refuses this: .*cycle_momentum"):
        build({"type": "OneCycleLR", "params": {"max_lr": 2}}, optimizer(torch.optim.Adagrad))


def test_rates_of_another_number_of_groups() -> None:
    config = {"type": "CyclicLR", "params": {"base_lr": [0.1, 0.2, 0.3], "max_lr": 1}}
    with pytest.raises(WiringError, match=r"CyclicLR of torch refuses this: .*base_lr"):
        build(config, optimizer(momentum=0.9))


def test_plateau_follows_its_metric() -> None:
    params = {"monitor": "val/student/accuracy", "mode": "max", "patience": 0, "factor": 0.5}
    stepper = build({"type": "ReduceLROnPlateau", "params": params}, optimizer())
    rates = []
    for accuracy in (0.1, 0.2, 0.2, 0.3):
        stepper.step_ended()
        stepper.epoch_ended({"val/student/accuracy": accuracy, "val/loss": 1.0})
        rates.append(stepper.last_lr())
    assert rates == [[0.4, 0.2], [0.4, 0.2], [0.2, 0.1], [0.2, 0.1]]


def test_plateau_without_its_metric_names_the_nearest() -> None:
    stepper = build(
        {"type": "ReduceLROnPlateau", "params": {"monitor": "val/lossy"}},
        optimizer(),
        place=Place("stages.0.scheduler"),
    )
    with pytest.raises(
        RunError, match=r"(?s)stages\.0\.scheduler: .*'val/lossy', which this epoch has not.*'val/loss'"
    ):
        stepper.epoch_ended({"val/loss": 1.0, "train/loss": 1.0})


def test_schedule_that_cannot_move_on_is_a_run_error() -> None:
    stepper = build(config_of("OneCycleLR"), optimizer(momentum=0.9), place=Place("stages.0.scheduler"))
    run(stepper, range(EPOCHS))
    with pytest.raises(RunError, match=r"stages\.0\.scheduler: OneCycleLR cannot move on: Tried to step 25 times"):
        stepper.step_ended()


def test_wrong_config_is_reported_where_it_stands() -> None:
    with pytest.raises(ConfigError, match=r"stages\.0\.scheduler\.params\.T_max"):
        build({"type": "CosineAnnealingLR", "params": {"T_max": 0}}, optimizer(), place=Place("stages.0.scheduler"))


def test_older_torch_lacks_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(lr_scheduler, "PolynomialLR")
    with pytest.raises(WiringError, match="has no scheduler PolynomialLR"):
        build("PolynomialLR", optimizer())
