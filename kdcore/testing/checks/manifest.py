"""What a component says of itself: manifest, schema, documentation."""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import importlib_metadata

from kdcore.component import Kind
from kdcore.discovery import normalized
from kdcore.hookspecs import ENTRY_POINT_GROUP
from kdcore.signatures import BUILT_WITH
from kdcore.testing.check import ALL, check
from kdcore.testing.result import Finding, NotApplicable
from kdcore.testing.subject import Subject

# Loads a manifest as discovery does, and runs the components' own checks on their defaults.
_LIST = """
import importlib, inspect, sys
from kdcore.component import CheckContext, Kind
from kdcore.schema_file import read_schema
module = importlib.import_module(sys.argv[1])
for kind in Kind:
    hook = getattr(module, kind.hook, None)
    for component in hook() if inspect.isfunction(hook) else ():
        if component.check:
            params = read_schema(component).get("properties", {})
            defaults = {name: part["default"] for name, part in params.items() if "default" in part}
            list(component.check(defaults, CheckContext()))
sys.exit("torch is imported" if "torch" in sys.modules else 0)
"""


@check(ALL, "listing the plugin and checking a config import no torch", once=True)
def manifest_without_torch(subject: Subject) -> None:
    """Load the manifest in a process of its own and see whether torch came along."""
    provenance = subject.registered.provenance
    module = _module(provenance.distribution, provenance.plugin)
    if module is None:
        raise NotApplicable("it is registered from Python, not installed")
    said = _listed(module)
    if said:
        raise Finding(
            f"importing the manifest {module!r}, calling its hooks and its checks in a fresh process: {said}. "
            'Name the factory as text, "package.module:Name", and import torch only in that module'
        )


def _module(distribution: str, plugin: str) -> str | None:
    for point in importlib_metadata.entry_points(group=ENTRY_POINT_GROUP):
        owner = point.dist.metadata["Name"] if point.dist else ""
        if point.name == plugin and normalized(owner) == normalized(distribution):
            return str(point.module)
    return None


@functools.cache
def _listed(module: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(  # noqa: S603 - our own Python
        [sys.executable, "-c", _LIST, module], env=environment, capture_output=True, text=True, check=False
    )
    return (done.stderr.strip().splitlines() or ["it ends without a word"])[-1] if done.returncode else ""


@check(ALL, "the schema is valid, refuses unknown keys, and its defaults lie in their own ranges", once=True)
def schema_strict(subject: Subject) -> None:
    """Validate the schema, an unknown key, and every default."""
    import jsonschema_rs

    schema = subject.registered.schema  # raises PluginError where it is no schema
    if schema.get("additionalProperties") is not False:
        raise Finding('the schema accepts unknown keys, so a typo is not found: add "additionalProperties": false')
    shared = schema.get("$defs", {})
    for name, part in schema.get("properties", {}).items():
        required = name in schema.get("required", ())
        if required == ("default" in part):
            both = "is required and has a default" if required else "is not required and has no default"
            raise Finding(f"param {name!r} {both}: give every param either a default or a place in required")
        if not required and not jsonschema_rs.is_valid({**part, "$defs": shared}, part["default"]):
            raise Finding(f"the default {part['default']!r} of param {name!r} is outside its own range: {_range(part)}")


def _range(part: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in part.items() if key not in ("description", "default", "title"))


@check(ALL, "schema and constructor agree in names and defaults", once=True, after=("schema_strict",))
def constructor_agrees(subject: Subject) -> None:
    """Compare the schema's params with the constructor's parameters."""
    schema = subject.registered.schema
    properties = schema.get("properties", {})
    parameters = _parameters(subject)
    named = [each for each in parameters.values() if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    names = {each.name for each in named}
    taken_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    if not taken_all and properties.keys() - names:
        missing = ", ".join(sorted(properties.keys() - names))
        raise Finding(f"the schema has {missing}, which the constructor does not take: rename or remove one of them")
    if names - properties.keys():
        missing = ", ".join(sorted(names - properties.keys()))
        raise Finding(f"the constructor takes {missing}, which the schema lacks: no config can set it")
    for parameter in named:
        _compare_default(parameter, properties[parameter.name], parameter.name in schema.get("required", ()))


def _compare_default(parameter: inspect.Parameter, part: Mapping[str, Any], required: bool) -> None:
    name = parameter.name
    if parameter.default is parameter.empty:
        if not required:
            raise Finding(
                f"the constructor wants {name}, which the schema does not require: built by hand and built by a config "
                "differ. Give the constructor the same default"
            )
        return
    if required:
        raise Finding(f"the schema requires {name}, whose default in the constructor is {parameter.default!r}")
    if not _alike(parameter.default, part.get("default"), whole=part.get("type") == "integer"):
        raise Finding(
            f"the default of {name} is {part.get('default')!r} in the schema and {parameter.default!r} in the "
            "constructor: a config and create(...) would build different things"
        )


def _alike(own: Any, written: Any, *, whole: bool) -> bool:
    """Whether two defaults build the same: True is not 1, nor is 2.0 a whole number, but a number 2 may be 2.0."""
    if isinstance(own, (list, tuple)) and isinstance(written, list):
        pairs = zip(own, written, strict=False)
        return len(own) == len(written) and all(_alike(one, other, whole=whole) for one, other in pairs)
    if isinstance(own, bool) is not isinstance(written, bool) or (whole and isinstance(own, float)):
        return False
    return bool(own == written)


def _parameters(subject: Subject) -> dict[str, inspect.Parameter]:
    factory = subject.registered.factory()
    if inspect.isclass(factory) and factory.__init__ is object.__init__:
        return {}
    given = BUILT_WITH.get(subject.kind)
    if inspect.isclass(factory) and "__init__" not in vars(factory) and not hasattr(factory, "__signature__"):
        parameters = dict(list(inspect.signature(factory.__init__).parameters.items())[1:])
        # nn.Module's own constructor takes anything and wants nothing.
        if {each.kind for each in parameters.values()} <= {
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        }:
            return {}
        return {name: each for name, each in parameters.items() if name != given}
    return {name: each for name, each in inspect.signature(factory).parameters.items() if name != given}


@check(
    ALL,
    "it has a summary, a help text for every input, a description of every param and a docstring",
    once=True,
    after=("schema_strict",),
)
def documented(subject: Subject) -> Iterator[str]:
    """Look for empty texts."""
    component = subject.registered.component
    if not component.summary.strip() or "\n" in component.summary:
        raise Finding("its summary must be one line: kd plugins lists it")
    silent = [each.name for each in component.inputs if not each.help.strip()]
    if silent and not _from_python(subject):
        raise Finding(f"inputs without help: {', '.join(silent)}. Say in Input(help=...) what shape is expected")
    params = subject.registered.schema.get("properties", {})
    silent = [name for name, part in params.items() if not part.get("description", "").strip()]
    if silent and not _from_python(subject):
        raise Finding(f'params without a description: {", ".join(silent)}. Give each a "description" in the schema')
    if not inspect.getdoc(subject.registered.factory()):
        yield "its factory has no docstring"
    if component.paper is None and subject.kind is Kind.LOSS:
        yield "it names no paper; if the method was published, give Component.paper"


def _from_python(subject: Subject) -> bool:
    return _module(subject.registered.provenance.distribution, subject.registered.provenance.plugin) is None


@check({Kind.LOSS, Kind.ADAPTER}, "the manifest's inputs are those of forward", once=True)
def inputs_agree(subject: Subject) -> None:
    """Compare names, and which inputs are optional."""
    inputs = {each.name: each for each in subject.registered.component.inputs}
    forward = getattr(subject.registered.factory(), "forward", None)
    if forward is None:
        raise NotApplicable("its factory is a function, so forward cannot be looked at")
    parameters = dict(list(inspect.signature(forward).parameters.items())[1:])
    named = {name for name, each in parameters.items() if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)}
    if len(named) == len(parameters) and inputs.keys() - named:
        raise Finding(f"the manifest has inputs that forward does not take: {', '.join(sorted(inputs.keys() - named))}")
    if named - inputs.keys():
        raise Finding(f"forward takes inputs that the manifest lacks: {', '.join(sorted(named - inputs.keys()))}")
    for name in sorted(named):
        has_default = parameters[name].default is not inspect.Parameter.empty
        if inputs[name].required is has_default:
            which = ("required", "has a default") if has_default else ("optional", "has no default")
            raise Finding(f"input {name} is {which[0]} in the manifest and {which[1]} in forward")
