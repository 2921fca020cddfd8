"""One JSON Schema of a whole config: the core's, completed by what is installed."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import jsonschema_rs

from kdcore import __version__
from kdcore.component import Kind
from kdcore.config.schemas import load_schema
from kdcore.errors import PluginError
from kdcore.plugins import Registered, Registry

Schema = dict[str, Any]

# Which definitions of the core's schema name a component of which kind.
_SECTIONS = {"data": Kind.DATASET, "model": Kind.MODEL, "adapter": Kind.ADAPTER, "loss": Kind.LOSS}
_PARTS = {"wrapper": Kind.WRAPPER, "balancer": Kind.BALANCER, "output": Kind.OUTPUT_EXTRACTOR}

# A scheduler inside another has no interval of its own and is none of these.
_STAND_ALONE = ("SequentialLR", "ChainedScheduler", "ReduceLROnPlateau", "OneCycleLR")


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
        definitions["stage"]["properties"][noun] = {"$ref": f"#/$defs/{noun}"}
    offers = sorted({str(each.provenance) for each in registry.all()})
    return {**schema, "$comment": f"for kdcore {__version__} with {', '.join(offers) or 'no plugins'}"}


class _Choice:
    """One name a config may write after `type:`, and the definition of its params."""

    def __init__(self, name: str, summary: str, reference: str, *, needs_params: bool) -> None:
        self.name = name
        self.summary = summary
        self.reference = reference
        self.needs_params = needs_params


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
            found.append(_Choice(name, registered.component.summary, _reference(key), needs_params=needs_params))
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
    then: Schema = {"properties": {"params": {"$ref": choice.reference}}}
    if choice.needs_params:
        then["required"] = ["params"]
    return {"if": {"properties": {"type": {"const": choice.name}}, "required": ["type"]}, "then": then}


def _point_at_parts(definitions: Schema) -> None:
    wrapper = {"$ref": "#/$defs/wrapper_part"}
    definitions["wrapper"]["anyOf"] = [wrapper, {"type": "array", "items": wrapper}]
    definitions["stage"]["properties"]["balancer"]["$ref"] = "#/$defs/balancer_part"
    for option in definitions["model"]["anyOf"]:
        if option["type"] == "object":
            option["properties"]["output"]["$ref"] = "#/$defs/output_part"


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
            needs_params = not jsonschema_rs.is_valid(params, {})
            choices.append(_Choice(name, "", _reference(key), needs_params=needs_params))
    if noun == "scheduler":
        _nest(definitions, schema, [choice for choice in choices if choice.name not in _STAND_ALONE])
    whole = {key: value for key, value in schema.items() if key not in ("$schema", "$comment")}
    return _naming({"anyOf": [{"type": "string"}, whole]}, choices)


def _nest(definitions: Schema, schema: Schema, choices: list[_Choice]) -> None:
    parts = {key: value for key, value in schema["properties"].items() if key != "interval"}
    inner = {"type": "object", "additionalProperties": False, "required": ["type"], "properties": parts}
    definitions["scheduler_part"] = _naming({"anyOf": [{"type": "string"}, inner]}, choices)
    for name in ("SequentialLR", "ChainedScheduler"):
        definitions[f"scheduler:{name}"]["properties"]["schedulers"]["items"] = {"$ref": "#/$defs/scheduler_part"}


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


def _reference(key: str) -> str:
    return f"#/$defs/{key.replace('~', '~0').replace('/', '~1')}"
