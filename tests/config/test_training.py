from __future__ import annotations

import copy
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.config.schemas import load_schema
from kdcore.config.source import Source, Spot
from kdcore.config.training import check_optimizer, check_scheduler
from kdcore.errors import Problem


def one(found: tuple[dict[str, Any], list[Problem]]) -> Problem:
    (problem,) = found[1]
    return problem


def fine(found: tuple[dict[str, Any], list[Problem]]) -> dict[str, Any]:
    assert found[1] == []
    return found[0]


def test_importing_and_checking_needs_no_torch() -> None:
    code = (
        "import sys; from kdcore.config.training import check_optimizer, check_scheduler;"
        "assert not check_optimizer('AdamW')[1] and not check_scheduler('CosineAnnealingLR')[1];"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_type_alone_is_completed_with_the_defaults() -> None:
    node = fine(check_optimizer("AdamW"))
    assert node["type"] == "AdamW"
    assert node["groups"] == []
    assert node["params"]["weight_decay"] == 0.01
    assert node["params"]["betas"] == [0.9, 0.999]
    assert fine(check_scheduler("CosineAnnealingLR")) == {
        "type": "CosineAnnealingLR",
        "params": {"T_max": "auto", "eta_min": 0},
        "interval": "epoch",
    }


NORMAL = [
    (check_optimizer, {"type": "SGD", "params": {"lr": 1}, "groups": [{"pattern": "*.bias", "params": {"lr": 2}}]}),
    (check_scheduler, {"type": "OneCycleLR", "params": {"max_lr": [1, 2], "epochs": 3}}),
    (check_scheduler, {"type": "ReduceLROnPlateau", "params": {"monitor": "val/loss"}}),
    (
        check_scheduler,
        {
            "type": "SequentialLR",
            "params": {
                "schedulers": [{"type": "LinearLR", "params": {"total_iters": "auto"}}, "PolynomialLR"],
                "milestones": [3],
            },
            "interval": "step",
        },
    ),
]


@pytest.mark.parametrize(("check", "data"), NORMAL)
def test_data_is_not_changed_and_a_checked_config_checks_to_itself(check: Any, data: dict[str, Any]) -> None:
    before = copy.deepcopy(data)
    node = fine(check(data))
    node["params"]["changed"] = True
    assert data == before
    del node["params"]["changed"]
    assert fine(check(node)) == node


def test_numbers_take_the_type_that_torch_asks_for() -> None:
    params = fine(check_optimizer({"type": "Adam", "params": {"lr": 1, "betas": [0, 0.9]}}))["params"]
    assert [type(each) for each in (params["lr"], *params["betas"])] == [float] * 3
    params = fine(check_scheduler({"type": "CosineAnnealingWarmRestarts", "params": {"T_0": 10.0, "eta_min": 0}}))[
        "params"
    ]
    assert (type(params["T_0"]), type(params["eta_min"])) == (int, float)
    params = fine(
        check_scheduler({"type": "CyclicLR", "params": {"base_lr": [0, 1], "max_lr": 1, "step_size_up": 3.0}})
    )["params"]
    assert json.dumps([params["base_lr"], params["max_lr"], params["step_size_up"]]) == "[[0.0, 1.0], 1.0, 3]"


@pytest.mark.parametrize(
    ("check", "name", "meant"),
    [
        (check_optimizer, "sgd", "'SGD'?"),
        (check_optimizer, "adamw", "'AdamW'?"),
        (check_optimizer, "adam_w", "'AdamW'?"),
        (check_optimizer, "RmsProp", "'RMSprop'?"),
        (check_optimizer, "Adamm", "'Adam'"),
        (check_scheduler, "cosine_annealing_lr", "'CosineAnnealingLR'?"),
        (check_scheduler, "OneCycle", "'OneCycleLR'"),
    ],
)
def test_unknown_type_names_the_nearest_and_all(check: Any, name: str, meant: str) -> None:
    problem = one(check({"type": name}, base=("stages", 0, "x")))
    assert f"{name!r}" in problem.what
    assert problem.what.startswith("unknown ")
    assert meant in problem.repair
    assert ("ASGD, Adadelta, " if check is check_optimizer else "ChainedScheduler, ConstantLR, ") in problem.repair
    assert "LBFGS" not in problem.repair
    assert "LambdaLR" not in problem.repair
    assert problem.place.path == "stages.0.x.type"


@pytest.mark.parametrize(
    ("check", "name", "reason"),
    [
        (check_optimizer, "LBFGS", "closure"),
        (check_scheduler, "LambdaLR", "Python function"),
        (check_scheduler, "MultiplicativeLR", "Python function"),
    ],
)
def test_types_that_a_config_cannot_use_say_why(check: Any, name: str, reason: str) -> None:
    problem = one(check(name))
    assert problem.what.startswith(f"{name} cannot be used: ")
    assert reason in problem.what


def test_positions_come_from_the_source() -> None:
    data = {"optimizer": {"type": "SGD", "params": {"lr": "fast"}}}
    spots = {("optimizer", "params", "lr"): Spot("a.yaml", 3, 16, 3, 12), ("optimizer",): Spot("a.yaml", 1, 1, 1, 1)}
    source = Source("a.yaml", "", data, spots)
    place = one(check_optimizer(data["optimizer"], source=source, base=("optimizer",))).place
    assert (place.file, place.line, place.column, place.path) == ("a.yaml", 3, 16, "optimizer.params.lr")
    place = one(check_optimizer("sgd", source=source, base=("optimizer",))).place
    assert (place.line, place.path) == (1, "optimizer")


@pytest.mark.parametrize(
    ("name", "params", "key"),
    [
        ("SGD", {"lr": "0.1"}, "lr"),
        ("SGD", {"lr": -0.1}, "lr"),
        ("SGD", {"lr": True}, "lr"),
        ("SparseAdam", {"lr": 0}, "lr"),
        ("Adam", {"betas": [0.9, 1]}, "betas"),
        ("Adam", {"betas": [0.9]}, "betas"),
        ("Adam", {"betas": 0.9}, "betas"),
        ("AdamW", {"weight_decay": -1}, "weight_decay"),
        ("Adafactor", {"eps": [0.1, None]}, "eps"),
        ("Adafactor", {"beta2_decay": 0.8}, "beta2_decay"),
        ("Rprop", {"etas": [1.2, 0.5]}, "etas"),
        ("Muon", {"ns_steps": 0}, "ns_steps"),
        ("Muon", {"adjust_lr_fn": "other"}, "adjust_lr_fn"),
        ("SGD", {"differentiable": True}, "differentiable"),
        ("SGD", {"momntum": 0.9}, "momntum"),
        ("SGD", {"params": []}, "params"),
    ],
)
def test_wrong_params_of_optimizers(name: str, params: dict[str, Any], key: str) -> None:
    found = check_optimizer({"type": name, "params": params}, base=("optimizer",))[1]
    assert found
    assert all(each.place.path.startswith("optimizer.params") and key in str(each) for each in found)


@pytest.mark.parametrize(
    ("name", "params", "key"),
    [
        ("CosineAnnealingLR", {"T_max": "automatic"}, "T_max"),
        ("CosineAnnealingLR", {"T_max": 0}, "T_max"),
        ("CosineAnnealingLR", {"T_max": 1.5}, "T_max"),
        ("CosineAnnealingLR", {"last_epoch": 3}, "last_epoch"),
        ("StepLR", {}, "step_size"),
        ("StepLR", {"step_size": "auto"}, "step_size"),
        ("MultiStepLR", {"milestones": [3, "auto"]}, "milestones"),
        ("CosineAnnealingWarmRestarts", {"T_0": "auto"}, "T_0"),
        ("LinearLR", {"start_factor": 0}, "start_factor"),
        ("ReduceLROnPlateau", {}, "monitor"),
        ("ReduceLROnPlateau", {"monitor": "val/loss", "factor": 1}, "factor"),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "scale_fn": "lambda x: x"}, "scale_fn"),
        ("OneCycleLR", {"max_lr": 1, "pct_start": 1}, "pct_start"),
        ("OneCycleLR", {"max_lr": 1, "anneal_strategy": "cosine"}, "anneal_strategy"),
        ("OneCycleLR", {"max_lr": [1, -1]}, "max_lr"),
    ],
)
def test_wrong_params_of_schedulers(name: str, params: dict[str, Any], key: str) -> None:
    found = check_scheduler({"type": name, "params": params}, base=("scheduler",))[1]
    assert found
    assert all(each.place.path.startswith("scheduler.params") and key in str(each) for each in found)


def test_every_mistake_is_reported_at_once() -> None:
    groups = [{"pattern": "*.bias", "params": {"lr": "x"}}, {"pattern": "a", "params": {"lr": -1}}]
    found = check_optimizer({"type": "SGD", "params": {"lr": 1}, "groups": groups})[1]
    assert [each.place.path for each in found] == ["groups.0.params.lr", "groups.1.params.lr"]
    found = check_optimizer({"type": "SGD", "params": {"lr": "x"}, "groups": [*groups, {"params": 3}], "group": []})[1]
    assert {each.place.path for each in found} == {
        "params.lr",
        "group",
        "groups.0.params.lr",
        "groups.1.params.lr",
        "groups.2",
        "groups.2.params",
    }
    params = {"schedulers": [{"type": "StepLR"}, 3], "milestones": 1}
    found = check_scheduler({"type": "SequentialLR", "params": params, "interval": "batch"})[1]
    assert {each.place.path for each in found} == {
        "interval",
        "params.schedulers.1",
        "params.milestones",
        "params.schedulers.0.params",
    }


def test_params_beside_params() -> None:
    problem = one(check_optimizer({"type": "SGD", "lr": 0.1}))
    assert problem.what == "'lr' is a parameter of SGD and stands beside params:"
    assert problem.repair == "write params: {lr: 0.1}"


@pytest.mark.parametrize("data", [None, 3, ["SGD"]])
def test_something_else_than_a_type_or_a_mapping(data: Any) -> None:
    assert "must be a type or a mapping" in one(check_optimizer(data)).what


def test_nesterov_needs_momentum() -> None:
    problem = one(check_optimizer({"type": "SGD", "params": {"nesterov": True}}))
    assert problem.place.path == "params.nesterov"
    assert "momentum 0.0 and dampening 0.0" in problem.what
    fine(check_optimizer({"type": "SGD", "params": {"nesterov": True, "momentum": 0.9}}))
    fine(check_optimizer({"type": "Muon", "params": {"nesterov": True, "momentum": 0}}))
    groups = [{"pattern": "a", "params": {"lr": 1}}, {"pattern": "b", "params": {"momentum": 0}}]
    data = {"type": "SGD", "params": {"nesterov": True, "momentum": 0.9}, "groups": groups}
    assert one(check_optimizer(data)).place.path == "groups.1.params.momentum"


def test_fused_and_foreach_exclude_each_other() -> None:
    assert "exclude" in one(check_optimizer({"type": "Adam", "params": {"fused": True, "foreach": True}})).what


def test_groups_take_what_may_differ_between_groups() -> None:
    data = {"type": "SGD", "groups": [{"pattern": ["*.bias", "*.bn*"], "params": {"weight_decay": 0}}]}
    assert fine(check_optimizer(data))["groups"] == [{"pattern": ["*.bias", "*.bn*"], "params": {"weight_decay": 0.0}}]
    assert fine(check_optimizer({"type": "SGD", "groups": [{"pattern": "*"}]}))["groups"][0] == {
        "pattern": ["*"],
        "params": {},
    }
    found = check_optimizer({"type": "SGD", "groups": [{"pattern": "*", "params": {"foreach": True}}]})[1]
    assert "foreach" in str(found[0])
    assert check_optimizer({"type": "SGD", "groups": [{"params": {"lr": 1}}]})[1]


@pytest.mark.parametrize(
    ("name", "params", "interval"),
    [
        ("OneCycleLR", {"max_lr": 1}, "step"),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": 1}, "step"),
        ("ExponentialLR", {"gamma": 0.9}, "epoch"),
        ("ReduceLROnPlateau", {"monitor": "val/loss"}, "epoch"),
    ],
)
def test_interval_by_default(name: str, params: dict[str, Any], interval: str) -> None:
    assert fine(check_scheduler({"type": name, "params": params}))["interval"] == interval


@pytest.mark.parametrize(
    ("given", "completed"),
    [
        ({}, ("auto", None, None)),
        ({"total_steps": 9}, (9, None, None)),
        ({"epochs": 9}, (None, 9, "auto")),
        ({"steps_per_epoch": "auto"}, (None, "auto", "auto")),
    ],
)
def test_one_cycle_knows_its_length(given: dict[str, Any], completed: tuple[Any, ...]) -> None:
    params = fine(check_scheduler({"type": "OneCycleLR", "params": {"max_lr": 1, **given}}))["params"]
    assert (params["total_steps"], params["epochs"], params["steps_per_epoch"]) == completed


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ({"params": {"max_lr": 1, "epochs": 2, "total_steps": 9}}, "beside epochs"),
        ({"params": {"max_lr": 1, "epochs": 2}, "interval": "epoch"}, "once per epoch"),
        ({"params": {"max_lr": 1, "three_phase": True, "pct_start": 0.6}}, "at most half"),
    ],
)
def test_one_cycle_conflicts(data: dict[str, Any], what: str) -> None:
    assert what in one(check_scheduler({"type": "OneCycleLR", **data})).what


def test_plateau_needs_epochs_and_a_direction() -> None:
    data = {"type": "ReduceLROnPlateau", "params": {"monitor": "val/loss"}, "interval": "step"}
    assert "a metric" in one(check_scheduler(data)).what
    problem = one(check_scheduler({"type": "ReduceLROnPlateau", "params": {"monitor": "val/student/accuracy"}}))
    assert "'val/student/accuracy' should rise or fall" in problem.what
    assert problem.repair == "write mode: max or min"
    fine(check_scheduler({"type": "ReduceLROnPlateau", "params": {"monitor": "val/student/accuracy", "mode": "max"}}))


def test_parts_of_a_sequence_are_checked_in_place() -> None:
    parts = [
        {"type": "linearLR"},
        {"type": "StepLR", "params": {"step_size": 0}},
        {"type": "PolynomialLR", "interval": "step"},
    ]
    data = {"type": "SequentialLR", "params": {"schedulers": parts, "milestones": [1, 2]}}
    found = check_scheduler(data, base=("scheduler",))[1]
    prefix = "scheduler.params.schedulers"
    assert [each.place.path for each in found] == [
        f"{prefix}.0.type",
        f"{prefix}.1.params.step_size",
        f"{prefix}.2.interval",
    ]


@pytest.mark.parametrize(("milestones", "what"), [([], "need 1 milestones, not 0"), ([3, 2], "do not rise")])
def test_milestones_of_a_sequence(milestones: list[int], what: str) -> None:
    data = {"type": "SequentialLR", "params": {"schedulers": ["LinearLR", "ConstantLR"], "milestones": milestones}}
    assert any(what in each.what for each in check_scheduler(data)[1])


@pytest.mark.parametrize("outer", ["SequentialLR", "ChainedScheduler"])
@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        ({"type": "ChainedScheduler", "params": {"schedulers": ["LinearLR"]}}, "made of schedulers"),
        ({"type": "ReduceLROnPlateau", "params": {"monitor": "val/loss"}}, "metric"),
        ({"type": "OneCycleLR", "params": {"max_lr": 1}}, "warm-up"),
    ],
)
def test_some_schedulers_stand_alone(outer: str, inner: dict[str, Any], reason: str) -> None:
    params = {"schedulers": [inner], **({"milestones": []} if outer == "SequentialLR" else {})}
    problem = one(check_scheduler({"type": outer, "params": params}))
    assert problem.what.startswith(f"{inner['type']} cannot stand inside {outer}: ")
    assert reason in problem.what


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 9), st.floats(-1, 2), st.sampled_from(["auto", "min", "x"])
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.text(max_size=3), SCALARS, max_size=2))


@st.composite
def anything_like(draw: st.DrawFn, noun: str, depth: int = 0) -> Any:
    schema = load_schema(f"{noun}s")
    name = draw(st.sampled_from(sorted(schema["$defs"])))
    properties = schema["$defs"][name].get("properties", {})
    written = {
        key: draw(st.one_of(st.just(each["default"]), VALUES) if "default" in each else VALUES)
        for key, each in properties.items()
        if draw(st.booleans())
    }
    if "schedulers" in written and depth == 0:
        written["schedulers"] = draw(st.lists(anything_like(noun, 1), max_size=3))
    options = {
        "params": st.just(written),
        "interval": st.sampled_from(["step", "epoch", 3]),
        "groups": VALUES,
        "x": VALUES,
    }
    return {"type": name, **draw(st.fixed_dictionaries({}, optional=options))}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_is_written_is_judged_and_left_as_it_is(data: st.DataObject) -> None:
    noun, check = data.draw(st.sampled_from([("optimizer", check_optimizer), ("scheduler", check_scheduler)]))
    config = data.draw(st.one_of(anything_like(noun), VALUES))
    before = copy.deepcopy(config)
    node, problems = check(config)
    assert config == before
    assert all(isinstance(each, Problem) and each.what for each in problems)
    if not problems:
        assert fine(check(node)) == node
