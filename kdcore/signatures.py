"""Schema and inputs of a component read off a Python signature, for those registered by hand."""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from kdcore.component import Input, Kind
from kdcore.errors import PluginError

# What the core passes to a constructor itself; everything else is a param of the config.
BUILT_WITH = {Kind.WRAPPER: "make_loss", Kind.BALANCER: "terms"}

_TYPES = {
    int: "integer",
    float: "number",
    bool: "boolean",
    str: "string",
    list: "array",
    tuple: "array",
    dict: "object",
}


def schema_of(factory: Callable[..., Any], kind: Kind) -> dict[str, Any]:
    """Return a strict JSON Schema of the factory's keyword arguments, with types and defaults."""
    properties: dict[str, Any] = {}
    required = []
    hints = _hints(factory.__init__ if inspect.isclass(factory) else factory)
    for name, parameter in _parameters(factory).items():
        if name == BUILT_WITH.get(kind):
            continue
        properties[name] = _property(hints.get(name))
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
        elif isinstance(parameter.default, (int, float, str, bool, list, dict, type(None))):
            properties[name]["default"] = parameter.default
        elif isinstance(parameter.default, tuple):
            properties[name]["default"] = list(parameter.default)
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def inputs_of(factory: Callable[..., Any] | str, kind: Kind) -> list[Input]:
    """Return the inputs that the `forward` of a loss or adapter names."""
    if kind not in (Kind.LOSS, Kind.ADAPTER):
        return []
    if isinstance(factory, str) or not hasattr(factory, "forward"):
        raise PluginError(
            f"{kind.title} {getattr(factory, '__name__', factory)!r}: its inputs cannot be read off, "
            "for it is not a class with a forward method",
            repair="register an nn.Module class, or pass inputs=[kdcore.Input(...), ...]",
        )
    inputs = []
    hints = _hints(factory.forward)
    for name, parameter in list(inspect.signature(factory.forward).parameters.items())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise PluginError(
                f"{getattr(factory, '__name__', factory)}.forward takes *{name}; its inputs cannot be read off",
                repair="name each input, or pass inputs=[kdcore.Input(...), ...]",
            )
        required = parameter.default is parameter.empty
        # A loss's student and teacher have the addresses that every plugin gives them by custom.
        default = name if kind is Kind.LOSS and required and name in ("student", "teacher") else None
        takes_list = typing.get_origin(hints.get(name)) in (list, tuple, collections.abc.Sequence)
        inputs.append(Input(name, required=required, default=default, list=takes_list))
    return inputs


def summary_of(factory: Callable[..., Any] | str) -> str:
    """Return the first line of the factory's docstring."""
    return (inspect.getdoc(factory) or "").split("\n")[0] if not isinstance(factory, str) else ""


def _parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    if inspect.isclass(factory) and factory.__init__ is object.__init__:
        return {}
    parameters = dict(inspect.signature(factory).parameters)
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            if inspect.isclass(factory) and "__init__" not in vars(factory):
                return {}
            raise PluginError(
                f"{getattr(factory, '__name__', factory)} takes *{name}; its params cannot be read off",
                repair="name each parameter, or pass schema={...}",
            )
    return parameters


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):
        # Annotations that do not resolve at run time only cost the type check of that param.
        return {}


def _property(hint: Any) -> dict[str, Any]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [_property(option) for option in typing.get_args(hint)]
        return {"anyOf": options} if all(options) else {}
    if origin is typing.Literal:
        return {"enum": list(typing.get_args(hint))}
    if hint is type(None):
        return {"type": "null"}
    name = _TYPES.get(origin or hint)
    return {"type": name} if name else {}
