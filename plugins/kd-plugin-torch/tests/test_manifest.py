"""What the manifest and its schemas say agrees with the installed torch."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import kd_plugin_torch
import pytest
from torch import nn

from kdcore import create
from kdcore.component import Component, Role
from kdcore.errors import ConfigError

SCHEMAS: dict[str, Any] = json.loads(Path(kd_plugin_torch.__file__).with_name("schema.json").read_text())["$defs"]
LOSSES: dict[str, Component] = {component.name: component for component in kd_plugin_torch.losses()}
OURS = {"class_dim"}
DEPRECATED = {"size_average", "reduce"}
LEFT_OUT = {
    "NLLLoss2d": "deprecated",
    "TripletMarginWithDistanceLoss": "takes a function",
    "LinearCrossEntropyLoss": "a layer with its own weights",
}


def torch_class(component: Component) -> type[nn.Module]:
    found: type[nn.Module] = getattr(nn, component.resolve().__name__)
    return found


def test_every_loss_of_torch_is_offered_or_left_out_for_a_reason() -> None:
    classes = {
        name
        for name, value in vars(nn.modules.loss).items()
        if inspect.isclass(value) and value.__module__ == nn.modules.loss.__name__ and not name.startswith("_")
    }
    offered = {torch_class(component).__name__ for component in LOSSES.values()}
    assert classes - offered <= set(LEFT_OUT)
    assert not offered & set(LEFT_OUT)


@pytest.mark.parametrize("name", LOSSES)
def test_params_have_torchs_names_and_defaults(name: str) -> None:
    torchs = {
        key: parameter.default
        for key, parameter in inspect.signature(torch_class(LOSSES[name])).parameters.items()
        if key not in DEPRECATED
    }
    properties = SCHEMAS[name]["properties"]
    assert {key: value["default"] for key, value in properties.items() if key not in OURS} == torchs


@pytest.mark.parametrize("name", LOSSES)
def test_inputs_are_those_of_forward(name: str) -> None:
    component = LOSSES[name]
    ours = inspect.signature(component.resolve().forward).parameters
    torchs = inspect.signature(torch_class(component).forward).parameters
    assert [each.name for each in component.inputs] == list(ours)[1:] == list(torchs)[1:]
    optional = {key for key, parameter in ours.items() if parameter.default is not inspect.Parameter.empty}
    assert {each.name for each in component.inputs if not each.required} == optional


@pytest.mark.parametrize("name", LOSSES)
def test_labels_are_bound_by_default_and_regression_targets_are_not(name: str) -> None:
    defaults = {each.name: each.default for each in LOSSES[name].inputs if each.default}
    target = LOSSES[name].input("target")
    classifies = {"input": "student", "target": "batch:target"}
    assert defaults in ({}, classifies)
    assert not defaults or (target is not None and target.role is Role.LABELS)
    assert (defaults == classifies) == (
        name
        in {
            "cross_entropy",
            "nll",
            "multi_margin",
            "multi_label_margin",
            "multi_label_soft_margin",
            "bce",
            "bce_with_logits",
            "soft_margin",
        }
    )


def test_the_readme_names_every_loss() -> None:
    readme = Path(__file__).parents[1].joinpath("README.md").read_text()
    assert [name for name in LOSSES if f"`{name}`" not in readme] == []


@pytest.mark.parametrize("name", LOSSES)
def test_create_builds_each_with_its_defaults(name: str) -> None:
    assert type(create("loss", name)) is LOSSES[name].resolve()


def test_create_passes_params_on_and_refuses_wrong_ones() -> None:
    loss = create("loss", "cross_entropy", weight=[1, 3], ignore_index=-1, label_smoothing=0.1)
    assert loss.weight.tolist() == [1, 3]
    assert (loss.ignore_index, loss.label_smoothing, loss.class_dim) == (-1, 0.1, -1)
    for params in ({"reduction": "none"}, {"size_average": True}, {"weight": []}, {"label_smoothing": 2}):
        with pytest.raises(ConfigError, match=next(iter(params))):
            create("loss", "cross_entropy", **params)
