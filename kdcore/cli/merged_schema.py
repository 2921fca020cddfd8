"""One JSON Schema of a whole config: the core's, completed by what is installed."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from kdcore import __version__
from kdcore.component import Kind
from kdcore.config.schemas import load_schema
from kdcore.config.training import CANNOT_NEST, NOT_PER_GROUP
from kdcore.errors import PluginError
from kdcore.plugins import Registered, Registry

Schema = dict[str, Any]

# Which definitions of the core's schema name a component of which kind.
_SECTIONS = {"data": Kind.DATASET, "model": Kind.MODEL, "adapter": Kind.ADAPTER, "loss": Kind.LOSS}
_PARTS = {
    "wrapper": Kind.WRAPPER,
    "balancer": Kind.BALANCER,
    "output": Kind.OUTPUT_EXTRACTOR,
    "criterion": Kind.CRITERION,
    "searcher": Kind.SEARCHER,
}


def merged_schema(registry: Registry) -> Schema:
    """Return the JSON Schema of configs that use the components of `registry`.

    Components whose schema is missing or invalid are left out, as a config cannot use them.
    """
    schema = copy.deepcopy(load_schema("config"))
    definitions = schema["$defs"]
    choices = {kind: _choices(registry, kind, definitions) for kind in Kind}
    for name, kind in _SECTIONS.items():
        definitions[name] = _naming(definitions[name], choices[kind])
    for name, kind in _PARTS.items():
        definitions[f"{name}_part"] = _naming(copy.deepcopy(definitions["component"]), choices[kind])
    _point_at_parts(definitions)
    for noun in ("optimizer", "scheduler"):
        definitions[noun] = _of_torch(noun, definitions)
        definitions["stage"]["properties"][noun] = _to(noun)
    offers = sorted({str(each.provenance) for each in registry.all()})
    return {**schema, "$comment": f"for kdcore {__version__} with {', '.join(offers) or 'no plugins'}"}


@dataclass(frozen=True)
class _Choice:
    """One name a config may write after `type:`, and what the keys beside it must then be."""

    name: str
    summary: str
    beside: Mapping[str, Schema]
    needs_params: bool


def _choices(registry: Registry, kind: Kind, definitions: Schema) -> list[_Choice]:
    found = []
    for registered in registry.all(kind):
        try:
            params = registered.schema
        except PluginError:
            continue
        key = f"{kind}:{registered.provenance.distribution}:{registered.name}"
        definitions[key] = rebased(params, key)
        needs_params = not jsonschema_rs.is_valid(params, {})
        for name in _spellings(registry, registered):
            found.append(_Choice(name, registered.component.summary, {"params": _to(key)}, needs_params))
    return found


def _spellings(registry: Registry, registered: Registered) -> list[str]:
    full = f"{registered.provenance.distribution}:{registered.name}"
    alone = sum(each.name == registered.name for each in registry.all(registered.kind)) == 1
    return [registered.name, full] if alone else [full]


def _naming(definition: Schema, choices: Iterable[_Choice]) -> Schema:
    """Return a definition whose `type` is one of `choices` and whose params fit it."""
    choices = list(choices)
    if "anyOf" in definition:
        # The short form, a type alone, is for components that need no params.
        short = _names([choice for choice in choices if not choice.needs_params])
        mapping = next(option for option in definition["anyOf"] if option["type"] == "object")
        return {**definition, "anyOf": [short, _naming(mapping, choices)]}
    properties = {**definition["properties"], "type": {**definition["properties"]["type"], **_names(choices)}}
    conditions = {"allOf": [_condition(choice) for choice in choices]} if choices else {}
    return {**definition, "properties": properties, **conditions}


def _names(choices: Iterable[_Choice]) -> Schema:
    choices = list(choices)
    # enumDescriptions is what editors show beside each name; validators pass over it.
    described = {"enumDescriptions": [choice.summary for choice in choices]} if choices else {}
    return {"type": "string", "enum": [choice.name for choice in choices], **described}


def _condition(choice: _Choice) -> Schema:
    then: Schema = {"properties": choice.beside}
    if choice.needs_params:
        then["required"] = ["params"]
    return {"if": {"properties": {"type": {"const": choice.name}}, "required": ["type"]}, "then": then}


def _point_at_parts(definitions: Schema) -> None:
    wrapper = _to("wrapper_part")
    definitions["wrapper"]["anyOf"] = [wrapper, {"type": "array", "items": wrapper}]
    definitions["stage"]["properties"]["balancer"]["$ref"] = _reference("balancer_part")
    definitions["pruning_group"]["properties"]["criterion"]["$ref"] = _reference("criterion_part")
    definitions["search"]["properties"]["searcher"]["$ref"] = _reference("searcher_part")
    for option in definitions["model"]["anyOf"]:
        if option["type"] == "object":
            option["properties"]["output"]["$ref"] = _reference("output_part")


def _of_torch(noun: str, definitions: Schema) -> Schema:
    """Return the definition of `optimizer:` or `scheduler:`, and add those of its types' params."""
    schema = copy.deepcopy(load_schema(f"{noun}s"))
    types: Mapping[str, Schema] = schema.pop("$defs")
    choices = []
    for name, params in types.items():
        # Types that a config cannot use are described by a schema that nothing satisfies.
        if "not" not in params:
            key = f"{noun}:{name}"
            definitions[key] = rebased(params, key)
            beside = {"params": _to(key)}
            if noun == "optimizer":
                definitions[f"{key}:group"] = _of_group(definitions[key])
                beside["groups"] = {"items": {"properties": {"params": _to(f"{key}:group")}}}
            choices.append(_Choice(name, "", beside, not jsonschema_rs.is_valid(params, {})))
    if noun == "scheduler":
        _nest(definitions, schema, [choice for choice in choices if choice.name not in CANNOT_NEST])
    whole = {key: value for key, value in schema.items() if key not in ("$schema", "$comment")}
    return _naming({"anyOf": [{"type": "string"}, whole]}, choices)


def _of_group(params: Schema) -> Schema:
    """Return the definition of a group's params: all optional, and none that counts for all groups."""
    properties = {name: each for name, each in params["properties"].items() if name not in NOT_PER_GROUP}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _nest(definitions: Schema, schema: Schema, choices: list[_Choice]) -> None:
    """Give the schedulers that are made of others the definition of those others."""
    parts = {key: value for key, value in schema["properties"].items() if key != "interval"}
    inner = {"type": "object", "additionalProperties": False, "required": ["type"], "properties": parts}
    definitions["scheduler_part"] = _naming({"anyOf": [{"type": "string"}, inner]}, choices)
    for name in ("SequentialLR", "ChainedScheduler"):
        definitions[f"scheduler:{name}"]["properties"]["schedulers"]["items"] = _to("scheduler_part")


def rebased(schema: Any, key: str) -> Any:
    """Return a copy of `schema` whose references still resolve once it is `#/$defs/<key>`."""
    if isinstance(schema, list):
        return [rebased(item, key) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {}
    for word, value in schema.items():
        if word == "$ref" and isinstance(value, str) and value.startswith("#"):
            moved[word] = _reference(key) + value[1:]
        elif word not in ("$schema", "$id"):
            moved[word] = rebased(value, key)
    return moved


def _to(key: str) -> Schema:
    return {"$ref": _reference(key)}


def _reference(key: str) -> str:
    return f"#/$defs/{key.replace('~', '~0').replace('/', '~1')}"
