"""A ready-to-paste example of one component, made from its schema and its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdcore.component import Component, Input, Kind, Role
from kdcore.plugins import Registered

# Where in a config a component of each kind stands.
PLACES = {
    Kind.LOSS: "in a stage:",
    Kind.WRAPPER: "in a stage, around one loss:",
    Kind.BALANCER: "in a stage:",
    Kind.CRITERION: "in a stage:",
    Kind.OUTPUT_EXTRACTOR: "in a model, under models:",
    Kind.SEARCHER: "at the top:",
    Kind.ADAPTER: "at the top:",
    Kind.MODEL: "at the top:",
    Kind.DATASET: "at the top:",
}


def example(registered: Registered) -> dict[str, Any]:
    """Return a piece of a config that uses the component with its own defaults."""
    kind, component = registered.kind, registered.component
    part: dict[str, Any] = {"type": component.name}
    params = example_params(registered.schema)
    if params:
        part["params"] = params
    inputs = _inputs(component)
    if kind in (Kind.LOSS, Kind.ADAPTER) and inputs:
        part["inputs"] = inputs
    if kind is Kind.WRAPPER:
        return {"losses": {"kd": {"type": "kd", "wrapper": part, **_wrapped(component)}}}
    if kind in (Kind.LOSS, Kind.ADAPTER):
        return {"losses" if kind is Kind.LOSS else "adapters": {component.name.replace("-", "_"): part}}
    if kind is Kind.MODEL:
        return {"models": {"student": part}}
    if kind is Kind.BALANCER:
        # The terms that examples of balancers refer to.
        return {"losses": {"ce": "cross_entropy", "kd": "kd"}, "balancer": part}
    if kind is Kind.DATASET:
        return {"data": {"train": part}}
    if kind is Kind.CRITERION:
        return {"pruning": {"criterion": part, "target_sparsity": 0.5}}
    if kind is Kind.SEARCHER:
        objectives = [{"metric": "parameters", "goal": "minimize"}]
        return {"search": {"searcher": part, "space": {"stages.0.epochs": [1, 2]}, "objectives": objectives}}
    return {"output": part}


def example_params(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return params that the schema accepts: its own example, else defaults and made-up values."""
    if schema.get("examples"):
        return dict(schema["examples"][0])
    required = schema.get("required", ())
    properties = schema.get("properties", {})
    definitions = schema.get("$defs", {})
    return {
        name: _value({"$defs": definitions, **each})
        for name, each in properties.items()
        if name in required or each.get("default") not in (None, [], {})
    }


def _value(schema: Mapping[str, Any]) -> Any:
    for word, first in (("default", False), ("const", False), ("examples", True), ("enum", True)):
        if word in schema:
            return schema[word][0] if first else schema[word]
    if "$ref" in schema:
        return _value(schema["$defs"][schema["$ref"].rpartition("/")[2]])
    for option in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        return _value(option)
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind in ("number", "integer"):
        return _number(schema)
    if kind == "array":
        fixed = schema.get("prefixItems", [])
        return [_value(item) for item in fixed] or [_value(schema.get("items", {}))] * max(1, schema.get("minItems", 1))
    if kind == "object":
        return {name: _value(schema["properties"][name]) for name in schema.get("required", ())} or {"name": 1}
    return {"boolean": True, "null": None}.get(str(kind), "name")


def _number(schema: Mapping[str, Any]) -> int | float:
    if "minimum" in schema:
        return max(schema["minimum"], 1) if schema.get("maximum", 1) >= 1 else schema["minimum"]  # type: ignore[no-any-return]
    if "exclusiveMinimum" in schema:
        limit = schema.get("maximum", schema.get("exclusiveMaximum"))
        low = schema["exclusiveMinimum"]
        return low + 1 if limit is None or limit > low + 1 else (low + limit) / 2  # type: ignore[no-any-return]
    return 1


def _inputs(component: Component) -> dict[str, Any]:
    return {each.name: _address(each) for each in component.inputs if each.required and each.default is None}


def _wrapped(component: Component) -> dict[str, Any]:
    # The optional ones too: they are what such a wrapper is for.
    inputs = {each.name: _address(each) for each in component.inputs}
    if component.takes_lists:
        for name in ("student", "teacher"):
            inputs[name] = [f"{name}:layer1", f"{name}:layer2"]
    return {"inputs": inputs} if inputs else {}


def _address(each: Input) -> str | list[str]:
    side = "teacher" if each.name.startswith(("teacher", "target")) else "student"
    if each.list:
        return [f"{side}:layer1", f"{side}:layer2"]
    if each.role is Role.LABELS:
        return f"batch:{each.name}"
    if each.role is Role.MODULE:
        return f"{side}:layer4@module"
    return f"{side}:layer4"
