"""Examples of components whose authors give none, where the kind and the inputs tell enough."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from kdcore.component import Component, Input, Kind, Role
from kdcore.contracts import Facts, TensorFacts
from kdcore.errors import PluginError
from kdcore.plugins import Registered
from kdcore.testing.example import Example

DERIVED = "derived"
CLASSES = 5
CHANNELS = 6
SIDE = 4
SAMPLES = 12


def derive(registered: Registered) -> Example | None:
    """Return an example of the component, or None where nothing tells what it is called with."""
    made = _MAKERS[registered.kind](registered.component)
    try:
        schema = registered.schema
    except PluginError:
        return made  # a check says so
    if made is None:
        return None
    if not schema.get("required"):
        return replace(made, name=DERIVED)
    written = schema.get("examples")
    return replace(made, name=DERIVED, params=written[0]) if written else None


def _of_loss(component: Component) -> Example | None:
    required = [each for each in component.inputs if each.required]
    drawn, shape = {}, None
    for each in required:
        shape = _shape(each, shape)
        drawn[each.name] = _draw(each, shape)
    if not drawn or None in drawn.values():
        return None

    def inputs(generator: torch.Generator, batch: int) -> Mapping[str, Any]:
        return {name: draw(generator, batch) for name, draw in drawn.items() if draw}

    targets = torch.arange(SAMPLES) % CLASSES
    return Example(inputs=inputs, facts=Facts(num_samples=SAMPLES, num_classes=CLASSES, targets=targets))


def _draw(each: Input, shape: tuple[int, ...] | None) -> Any:
    if each.role is Role.MODULE or each.list:
        return None
    if each.default in ("student", "teacher", None) and each.role is not Role.LABELS:
        return shape and (lambda generator, batch: torch.randn(batch, *shape, generator=generator))
    if each.default == "batch:target" and each.role is Role.LABELS:
        return lambda generator, batch: torch.randint(CLASSES, (batch,), generator=generator)
    if each.default == "batch:index":
        return lambda generator, batch: torch.randperm(SAMPLES, generator=generator)[:batch]
    return None


def _shape(each: Input, before: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Return the shape of a sample where default or help tell: logits, (B, C, *spatial), or as the input before."""
    if each.default in ("student", "teacher"):
        return (CLASSES,)
    if re.search(r"\bsame\b|\bthat shape\b|\bthe shape of\b", each.help):
        return before
    written = re.search(r"\(B, ([^)]*)\)", each.help)
    if written is None:
        return None
    return (CHANNELS, SIDE, SIDE) if re.search("spatial|H, W", written[1]) else (CLASSES,)


def _of_wrapper(component: Component) -> Example | None:
    if any(each.required for each in component.inputs):
        return None

    def inputs(generator: torch.Generator, batch: int) -> Mapping[str, Any]:
        def draw() -> Any:
            return torch.randn(batch, CHANNELS, generator=generator)

        return {name: [draw(), draw()] if component.takes_lists else draw() for name in ("student", "teacher")}

    return Example(inputs=inputs)


def _of_balancer(component: Component) -> Example:
    return Example(
        inputs=lambda generator, batch: dict(zip(("ce", "kd"), torch.rand(2, generator=generator) + 0.5, strict=True))
    )


def _of_adapter(component: Component) -> Example | None:
    if [each.name for each in component.inputs if each.required] != ["x"]:
        return None
    return Example(
        inputs=lambda generator, batch: {"x": torch.randn(batch, CHANNELS, SIDE, SIDE, generator=generator)},
        facts=Facts(like=TensorFacts((SIDE, CHANNELS + 2, SIDE, SIDE), torch.float32)),
    )


def _of_extractor(component: Component) -> Example:
    return Example(
        inputs=lambda generator, batch: {"output": torch.randn(batch, CLASSES, generator=generator), "batch": {}}
    )


_MAKERS: dict[Kind, Callable[[Component], Example | None]] = {
    Kind.LOSS: _of_loss,
    Kind.WRAPPER: _of_wrapper,
    Kind.BALANCER: _of_balancer,
    Kind.ADAPTER: _of_adapter,
    Kind.OUTPUT_EXTRACTOR: _of_extractor,
    Kind.DATASET: lambda component: Example(),
    Kind.MODEL: lambda component: Example(),
    Kind.SEARCHER: lambda component: Example(),
    Kind.CRITERION: lambda component: Example(),
}
