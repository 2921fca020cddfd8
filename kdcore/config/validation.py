"""Data against a JSON Schema: every violation as a problem with a place and a repair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema_rs

from kdcore.config.defaults import with_defaults
from kdcore.config.plain import plain
from kdcore.config.references import refuse
from kdcore.config.source import Path, Source, dotted
from kdcore.config.wording import Finding, Wording
from kdcore.errors import Place, Problem
from kdcore.plugins import Registered

__all__ = ["check_params", "validate", "with_defaults"]

# Keywords that only describe: a schema of nothing else accepts any object, not only plain data.
_ANNOTATIONS = frozenset(("$comment", "default", "deprecated", "description", "examples", "title"))


def validate(
    data: Any, schema: Any, *, source: Source | None = None, base: Path = (), noun: str = "key"
) -> list[Problem]:
    """Return every violation of `schema` by `data`.

    Arguments:
        data: what is checked, plain or not.
        schema: a JSON Schema (2020-12); its references must be local.
        source: where `data` was read, for positions.
        base: the path of `data` inside the source.
        noun: what messages call a key.
    """
    return _checked(data, Wording(schema, noun), source, base)


def check_params(
    registered: Registered, params: Mapping[str, Any], *, source: Source | None = None, base: Path = ()
) -> tuple[dict[str, Any], list[Problem]]:
    """Return a component's params with the defaults filled in, and what is wrong with them.

    Raises PluginError where the component's schema is missing or invalid.
    """
    schema = registered.schema
    properties = schema.get("properties", {})
    # Components registered from Python may take objects that no schema can judge.
    judged = {key: None if _takes_anything(properties.get(key)) else value for key, value in params.items()}
    problems = _checked(judged, Wording(schema, "parameter", f" of {registered}"), source, base)
    return with_defaults(params, schema), problems


def _checked(data: Any, wording: Wording, source: Source | None, base: Path) -> list[Problem]:
    data, impurities = plain(data)
    findings = [Finding(path, f"{wording.subject(path)}{what}", repair) for path, what, repair in impurities]
    unjudged = {path for path, _, _ in impurities}
    try:
        validator = jsonschema_rs.Draft202012Validator(wording.schema, retriever=refuse)
        errors = list(validator.iter_errors(data))
    except ValueError as error:
        reason = str(error).split("\n")[0]
        findings.append(Finding((), f"the JSON Schema{wording.owner} cannot be used: {reason}", "repair the schema"))
        errors = []
    findings += [
        each for error in errors if tuple(error.instance_path) not in unjudged for each in wording.findings(error)
    ]
    return [_problem(finding, source, base, data) for finding in dict.fromkeys(findings)]


def _problem(finding: Finding, source: Source | None, base: Path, data: Any) -> Problem:
    path = (*base, *finding.path)
    if source is not None:
        place = source.place(path, key=finding.key)
    else:
        place = Place(".".join(part for part in (dotted(base), dotted(finding.path, data)) if part))
    return Problem(finding.what, place, finding.repair)


def _takes_anything(schema: Any) -> bool:
    return schema is True or (isinstance(schema, Mapping) and _ANNOTATIONS.issuperset(schema))
