"""JSON Schema violations in our words, defaults, and params of components."""

from __future__ import annotations

import copy
import enum
import json
import math
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kdcore
from kdcore.component import Component, Kind
from kdcore.config.reader import read_text
from kdcore.config.schemas import load_schema
from kdcore.config.validation import check_params, validate, with_defaults
from kdcore.errors import ConfigError, PluginError, Problem
from kdcore.plugins import Provenance, Registered

PROPERTY = settings(
    derandomize=True, deadline=None, database=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow]
)


def only(data: Any, schema: Any) -> Problem:
    (problem,) = validate(data, schema)
    return problem


# Words


@pytest.mark.parametrize(
    ("schema", "value", "what", "repair"),
    [
        ({"type": "number"}, "abc", "must be a number, found 'abc' (text)", ""),
        ({"type": "number"}, "1_000", "must be a number, found '1_000' (text)", "write 1000, without quotes"),
        ({"type": "integer"}, "0x10", "must be a whole number, found '0x10' (text)", "write 16, without quotes"),
        ({"type": "number"}, "1e-3", "must be a number, found '1e-3' (text)", "write 0.001, without quotes"),
        ({"type": "number"}, "inf", "must be a number, found 'inf' (text)", ""),
        ({"type": "integer"}, 1.5, "must be a whole number, found 1.5", ""),
        ({"type": "integer"}, True, "must be a whole number, found true", ""),
        ({"type": "boolean"}, "yes", "must be true or false, found 'yes' (text)", "write true or false"),
        ({"type": "boolean"}, "Off", "must be true or false, found 'Off' (text)", "write true or false"),
        ({"type": "boolean"}, "true", "must be true or false, found 'true' (text)", "without quotes"),
        ({"type": "boolean"}, 1, "must be true or false, found 1", ""),
        ({"type": "string"}, 5, "must be text, found 5", "put it in quotes: '5'"),
        ({"type": "string"}, False, "must be text, found false", "put it in quotes: 'false'"),
        ({"type": "string"}, None, "must be text, found nothing (null)", "give it a value, or leave it out"),
        ({"type": "array"}, "a", "must be a list, found 'a' (text)", "write a list: [a]"),
        ({"type": "array"}, {"a": 1}, "must be a list, found a mapping with the keys a", ""),
        ({"type": "object"}, [], "must be a mapping, found an empty list", ""),
        ({"type": "object"}, [1, 2], "must be a mapping, found a list of 2 items", ""),
        ({"type": ["integer", "null"]}, "x", "must be a whole number or null, found 'x' (text)", ""),
        ({"minimum": 3}, 1, "must be at least 3, found 1", ""),
        ({"maximum": 3}, 4.5, "must be at most 3, found 4.5", ""),
        ({"exclusiveMinimum": 0}, 0, "must be more than 0, found 0", ""),
        ({"exclusiveMaximum": 1}, 1, "must be less than 1, found 1", ""),
        ({"multipleOf": 2}, 3, "must be a multiple of 2, found 3", ""),
        ({"enum": ["kl", "mse"]}, "kls", "must be one of 'kl' or 'mse', found 'kls' (text)", "did you mean 'kl'?"),
        ({"enum": ["kl", "mse"]}, 3, "must be one of 'kl' or 'mse', found 3", ""),
        ({"enum": ["1", "2"]}, 1, "must be one of '1' or '2', found 1", "put it in quotes: '1'"),
        ({"enum": ["4x1"]}, "4x2", "must be '4x1', found '4x2' (text)", "did you mean '4x1'?"),
        ({"const": 1}, 2, "must be 1, found 2", ""),
        ({"pattern": "^a"}, "b", "must match the pattern '^a', found 'b'", ""),
        ({"minLength": 3}, "ab", "must have at least 3 characters, found 'ab'", ""),
        ({"maxLength": 1}, "ab", "must have at most 1 characters, found 'ab'", ""),
        ({"minLength": 1}, "", "must not be empty", ""),
        ({"minItems": 1}, [], "must not be empty", ""),
        ({"minItems": 2}, [1], "must have at least 2 items, found 1", ""),
        ({"maxItems": 1}, [1, 2, 3], "must have at most 1 items, found 3", ""),
        ({"minProperties": 1}, {}, "must not be empty", ""),
        ({"maxProperties": 1}, {"a": 1, "b": 2}, "must have at most 1 keys, found 2", ""),
        ({"uniqueItems": True}, [1, "a", "a"], "must not hold the same item twice, found 'a' twice", "remove one"),
        ({"not": {"type": "string"}}, "a", "must be something else than 'a'", ""),
        ({"contains": {"const": 1}}, [2], "lacks an item that it must have", ""),
        (False, 1, "is not allowed here", "remove it"),
        ({"oneOf": [{"type": "integer"}, {"minimum": 0}]}, 3, "fits several alternatives, of which only one may", ""),
        ({"minLength": 200}, "x" * 100, "at least 200 characters, found 'xxx", ""),
    ],
)
def test_words(schema: Any, value: Any, what: str, repair: str) -> None:
    problem = only({"a": value}, {"properties": {"a": schema}})
    assert problem.what.startswith("'a' ")
    assert what in problem.what
    assert repair in problem.repair
    assert len(problem.what) < 200
    assert str(problem.place) == "a"


def test_description_is_part_of_the_repair() -> None:
    schema = {"properties": {"t": {"type": "number", "description": "divides the logits"}}}
    assert only({"t": "x"}, schema).repair == "t: divides the logits"
    assert only({"t": "1_0"}, schema).repair == "write 10, without quotes; t: divides the logits"


def test_description_behind_a_reference_gives_way_to_the_one_in_front() -> None:
    definitions = {"$defs": {"rate": {"type": "number", "description": "a rate"}}}
    plain = {"properties": {"t": {"$ref": "#/$defs/rate"}}, **definitions}
    own = {"properties": {"t": {"$ref": "#/$defs/rate", "description": "its own"}}, **definitions}
    assert only({"t": "x"}, plain).repair == "t: a rate"
    assert only({"t": "x"}, own).repair == "t: its own"


def test_description_of_the_parent_is_not_borrowed() -> None:
    schema = {"description": "all", "properties": {"a": {"description": "one", "items": {"type": "number"}}}}
    assert only({"a": ["x"]}, schema).repair == ""


def test_item_is_named_with_its_list() -> None:
    problem = only({"w": [1, "x"]}, {"properties": {"w": {"items": {"type": "number"}}}})
    assert problem.what == "'w.1' must be a number, found 'x' (text)"
    assert str(problem.place) == "w.1"


def test_unknown_keys_one_problem_each() -> None:
    schema = {"properties": {"epochs": {}, "train": {}}, "additionalProperties": False}
    first, second = validate({"epoch": 1, "zzz": 2}, schema)
    assert (first.what, first.repair) == ("unknown key 'epoch'", "did you mean 'epochs'? keys: epochs, train")
    assert (second.what, second.repair) == ("unknown key 'zzz'", "known keys: epochs, train")
    assert (str(first.place), str(second.place)) == ("epoch", "zzz")


def test_unknown_key_beside_composed_schemas() -> None:
    schema = {
        "$defs": {"base": {"properties": {"alpha": {}}}},
        "allOf": [{"$ref": "#/$defs/base"}],
        "properties": {"beta": {}},
        "unevaluatedProperties": False,
    }
    assert only({"alhpa": 1}, schema).repair == "did you mean 'alpha'? keys: alpha, beta"


def test_missing_keys() -> None:
    schema = {"required": ["a", "b"], "properties": {"a": {"description": "how many"}}}
    first, second = validate({"x": {}}, {"properties": {"x": schema}})
    assert (first.what, first.repair) == ("missing key 'a' in 'x'", "add a: how many")
    assert (second.what, second.repair) == ("missing key 'b' in 'x'", "add b")
    assert only({"q": 1}, {"dependentRequired": {"q": ["r"]}}).what == "missing key 'r'"


def test_name_of_a_key() -> None:
    schema = {"propertyNames": {"pattern": "^[a-z]+$", "description": "small letters"}}
    problem = only({"a": {"7x": 1}}, {"properties": {"a": schema}})
    assert problem.what == "key '7x' must match the pattern '^[a-z]+$'"
    assert problem.repair == "small letters"
    assert str(problem.place) == "a.7x"


COMPONENT = {
    "description": "a component",
    "anyOf": [
        {"type": "string", "minLength": 1},
        {
            "type": "object",
            "required": ["type"],
            "additionalProperties": False,
            "properties": {"type": {"type": "string"}, "k": {"type": "integer", "minimum": 1}},
        },
    ],
}


@pytest.mark.parametrize(
    ("value", "place", "what"),
    [
        (3, "a", "'a' must be text or a mapping, found 3"),
        ("", "a", "'a' must not be empty"),
        ({}, "a", "missing key 'type' in 'a'"),
        ({"type": "x", "k": 0}, "a.k", "'k' must be at least 1, found 0"),
        ({"type": "x", "kk": 0}, "a.kk", "unknown key 'kk'"),
    ],
)
def test_alternatives_report_the_branch_that_fits_best(value: Any, place: str, what: str) -> None:
    problem = only({"a": value}, {"properties": {"a": COMPONENT}})
    assert (str(problem.place), problem.what) == (place, what)


def test_alternatives_within_alternatives_are_one_choice() -> None:
    schema = {"anyOf": [COMPONENT, {"type": "array", "items": COMPONENT}]}
    assert only({"a": 3}, {"properties": {"a": schema}}).what == "'a' must be text, a mapping or a list, found 3"
    (problem,) = validate({"a": ["x", 3]}, {"properties": {"a": schema}})
    assert (str(problem.place), problem.what) == ("a.1", "'a.1' must be text or a mapping, found 3")


def test_alternatives_of_options_and_types() -> None:
    schema = {"oneOf": [{"enum": ["auto", "none"]}, {"type": "number", "exclusiveMinimum": 0}]}
    problem = only({"a": "atuo"}, {"properties": {"a": schema}})
    assert problem.what == "'a' must be 'auto', 'none' or a number, found 'atuo' (text)"
    assert problem.repair == "did you mean 'auto'?"
    assert only({"a": -1}, {"properties": {"a": schema}}).what == "'a' must be more than 0, found -1"


def test_alternatives_told_apart_by_a_constant() -> None:
    def branch(kind: str, key: str) -> dict[str, Any]:
        return {"properties": {"type": {"const": kind}, key: {"type": "number"}}, "additionalProperties": False}

    schema = {"oneOf": [branch("step", "size"), branch("cosine", "period")]}
    (problem,) = validate({"type": "cosine", "period": "x"}, schema)
    assert problem.what == "'period' must be a number, found 'x' (text)"


# Places


def test_places_come_from_the_source() -> None:
    source = read_text("stages:\n  - name: hint\n    loss: {weigth: 1, weight: x}\n", "c.yaml")
    schema = {"additionalProperties": False, "properties": {"weight": {"type": "number"}}, "required": ["type"]}
    found = validate(source.data["stages"][0]["loss"], schema, source=source, base=("stages", 0, "loss"))
    assert {str(each.place): each.what for each in found} == {
        "c.yaml:3:12: stages.hint.loss.weigth": "unknown key 'weigth'",
        "c.yaml:3:31: stages.hint.loss.weight": "'weight' must be a number, found 'x' (text)",
        "c.yaml:3:11: stages.hint.loss": "missing key 'type'",
    }


def test_place_without_a_source() -> None:
    (problem,) = validate({"a": [{"name": "n", "b": "x"}]}, DEEP, base=("top",))
    assert str(problem.place) == "top.a.n.b"


DEEP = {"properties": {"a": {"items": {"properties": {"b": {"type": "number"}}}}}}


def test_the_core_schema_accepts_and_refuses() -> None:
    text = "version: 1\nmodels: {student: {type: m}}\nstages:\n- {name: s, train: [student], losses: {ce: mse}}\n"
    source = read_text(text)
    schema = load_schema("config")
    assert validate(source.data, schema, source=source) == []
    assert "unknown key 'stage'" in str(validate({**source.data, "stage": 1}, schema)[0])


# Odd data and odd schemas


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (math.nan, "'a' is nan, not a finite number"),
        (-math.inf, "'a' is -inf, not a finite number"),
        (object(), "'a' is of the type object, which is not data"),
        ({1, 2}, "'a' is of the type set, which is not data"),
        ({1: 2}, "'a' has a key of the type int"),
        (b"x", "'a' is of the type bytes, which is not data"),
        ("\ud800", "'a' holds half of a surrogate pair"),
        (10**4000, "'a' is a whole number of 13288 bits"),
    ],
)
def test_data_that_json_cannot_say(value: Any, what: str) -> None:
    problem = only({"a": value}, {"properties": {"a": {"type": "number"}}})
    assert problem.what == what
    assert problem.repair


class Color(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ((1, 2), {"type": "array"}),
        (np.float64(1.5), {"type": "number"}),
        (np.int64(2), {"type": "integer"}),
        (Color.RED, {"enum": ["red"]}),
        (Path("x"), {"const": "x"}),
        (MappingProxyType({"b": 1}), {"type": "object"}),
        (10**300, {"type": "integer"}),
        (4.0, {"type": "integer"}),
    ],
)
def test_data_that_stands_for_json(value: Any, schema: Any) -> None:
    assert validate({"a": value}, {"properties": {"a": schema}}) == []


def test_data_without_end() -> None:
    ring: list[Any] = []
    ring += [ring, ring]
    assert [each.what for each in validate({"a": ring}, {})] == ["'a.0' contains itself", "'a.1' contains itself"]
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert "is nested more than 100 levels deep" in only(deep, {}).what


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"$ref": "#/$defs/none"}, "'/\\$defs/none' does not exist"),
        ({"$ref": "http://example.com/schema"}, "references must be local"),
        ({"$ref": "file:///etc/hostname"}, "references must be local"),
        ({"type": "strnig"}, "strnig"),
        ({"pattern": "("}, "regex"),
        ({"properties": 3}, "is not of type"),
        (3, ""),
        ({"minimum": object()}, ""),
    ],
)
def test_schema_that_cannot_be_used(schema: Any, reason: str) -> None:
    problem = only({}, schema)
    assert problem.what.startswith("the JSON Schema cannot be used: ")
    assert reason.replace("\\", "") in problem.what


def test_schema_that_only_names_itself() -> None:
    assert validate({}, {"$ref": "#"}) == []
    assert with_defaults({"a": 1}, {"$ref": "#", "properties": {"b": {"$ref": "#/properties/b"}}}) == {"a": 1}


# Defaults


def test_with_defaults() -> None:
    schema = {
        "$defs": {
            "params": {"type": "object", "default": {}},
            "item": {"properties": {"k": {"type": "integer", "default": 5}, "p": {"$ref": "#/$defs/params"}}},
            "short": {"anyOf": [{"type": "string"}, {"type": "object", "properties": {"strict": {"default": True}}}]},
        },
        "properties": {
            "seed": {"type": "integer", "default": 0},
            "names": {"default": ["a"]},
            "absent": {"properties": {"x": {"default": 1}}},
            "present": {"properties": {"x": {"default": 1}}},
            "list": {"items": {"$ref": "#/$defs/item"}},
            "pair": {"prefixItems": [{}, {"$ref": "#/$defs/item"}]},
            "short": {"$ref": "#/$defs/short"},
            "long": {"$ref": "#/$defs/short"},
            "map": {"additionalProperties": {"$ref": "#/$defs/item"}},
            "by_pattern": {"patternProperties": {"^x": {"$ref": "#/$defs/item"}}},
            "both": {"allOf": [{"$ref": "#/$defs/item"}, {"properties": {"m": {"default": None}}}]},
            "own": {"$ref": "#/$defs/params", "default": "auto"},
        },
    }
    data = {
        "present": {},
        "list": [{}, {"k": 1}],
        "pair": [{}, {}],
        "short": "s",
        "long": {},
        "map": {"q": {}},
        "by_pattern": {"xa": {}, "b": {}},
        "both": {},
        "other": {"kept": 1},
    }
    before = copy.deepcopy(data)
    item = {"k": 5, "p": {}}
    filled = with_defaults(data, schema)
    assert filled == {
        "seed": 0,
        "names": ["a"],
        "present": {"x": 1},
        "list": [item, {"k": 1, "p": {}}],
        "pair": [{}, item],
        "short": "s",
        "long": {"strict": True},
        "map": {"q": item},
        "by_pattern": {"xa": item, "b": {}},
        "both": {**item, "m": None},
        "own": "auto",
        "other": {"kept": 1},
    }
    assert data == before
    filled["names"].append("b")
    filled["list"][0]["p"]["x"] = 1
    assert schema["properties"]["names"] == {"default": ["a"]}
    assert schema["$defs"]["params"]["default"] == {}


def test_whole_numbers_written_as_floats_become_integers_where_the_schema_wants_them() -> None:
    integer, either = {"type": "integer"}, {"type": ["integer", "number"]}
    schema = {"properties": {"a": integer, "b": {"type": "number"}, "c": either, "d": {"items": integer}}}
    filled = with_defaults({"a": 1e3, "b": 4.0, "c": 2.0, "d": [3.0], "e": 5.0}, schema)
    assert json.dumps(filled) == '{"a": 1000, "b": 4.0, "c": 2.0, "d": [3], "e": 5.0}'


# Params of components


def registered(schema: dict[str, Any]) -> Registered:
    component = Component(name="foo", factory="somewhere.else:Foo", schema=schema, summary="")
    return Registered(Kind.LOSS, component, Provenance("kd-plugin-foo", "1.2", "foo"))


PARAMS = {
    "type": "object",
    "additionalProperties": False,
    "required": ["beta"],
    "properties": {
        "temperature": {"type": "number", "exclusiveMinimum": 0, "default": 4.0, "description": "softens"},
        "beta": {"type": "integer"},
        "head": {"description": "any object"},
    },
}


def test_params_with_defaults() -> None:
    assert check_params(registered(PARAMS), {"beta": 2.0}) == ({"temperature": 4.0, "beta": 2}, [])


def test_params_name_the_component() -> None:
    given_params = {"temprature": 2, "temperature": 0, "nested": 1}
    filled, problems = check_params(registered(PARAMS), given_params)
    owner = "of loss 'foo' (kd-plugin-foo 1.2)"
    assert {each.what for each in problems} == {
        f"unknown parameter 'temprature' {owner}",
        f"unknown parameter 'nested' {owner}",
        f"missing parameter 'beta' {owner}",
        f"'temperature' {owner} must be more than 0, found 0",
    }
    repairs = {each.what.split("'")[1]: each.repair for each in problems}
    assert repairs["temprature"] == "did you mean 'temperature'? parameters: beta, head, temperature"
    assert repairs["temperature"] == "temperature: softens"
    assert filled == given_params


def test_params_have_places() -> None:
    source = read_text("losses:\n  kd: {type: foo, params: {betta: 1}}\n  at: foo\n", "c.yaml")
    base = ("losses", "kd", "params")
    _, problems = check_params(registered(PARAMS), {"betta": 1}, source=source, base=base)
    assert {str(each.place) for each in problems} == {
        "c.yaml:2:28: losses.kd.params.betta",
        "c.yaml:2:27: losses.kd.params",
    }
    _, problems = check_params(registered(PARAMS), {}, source=source, base=("losses", "at", "params"))
    assert str(problems[0].place) == "c.yaml:3:7: losses.at.params"


def test_params_take_objects_where_the_schema_says_nothing() -> None:
    head = object()
    filled, problems = check_params(registered(PARAMS), {"beta": 1, "head": head})
    assert problems == []
    assert filled["head"] is head
    _, problems = check_params(registered(PARAMS), {"beta": head})
    assert "'beta' of loss 'foo' (kd-plugin-foo 1.2) is of the type object" in problems[0].what


def test_broken_schema_of_a_component() -> None:
    with pytest.raises(PluginError, match=r"loss 'foo' \(kd-plugin-foo 1.2\) is broken: its schema is not valid"):
        check_params(registered({"type": "object", "properties": {"a": {"type": "nmuber"}}}), {})
    _, problems = check_params(registered({"type": "object", "$ref": "#/$defs/none"}), {})
    assert problems[0].what.startswith("the JSON Schema of loss 'foo' (kd-plugin-foo 1.2) cannot be used")


def test_create_names_the_nearest_parameter() -> None:
    with pytest.raises(ConfigError, match=r"temprature: unknown parameter 'temprature' of loss 'kd' \(kd-plugin-kd"):
        kdcore.create("loss", "kd", temprature=2)
    with pytest.raises(ConfigError, match="did you mean 'temperature'"):
        kdcore.create("loss", "kd", temprature=2)


# Properties

LEAF = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=4)
)
NAME = st.sampled_from(["a", "b", "type"])
DATA = st.recursive(
    st.one_of(LEAF, st.sampled_from(["yes", "1", "a"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAME, inner, max_size=3)),
    max_leaves=6,
).filter(lambda data: "\\ud" not in json.dumps(data))
TYPE = st.sampled_from(["string", "number", "integer", "object", "array", "null", "boolean"])


def extended(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    named = st.dictionaries(NAME, inner, max_size=3)
    some = st.lists(inner, min_size=1, max_size=3)
    keywords: dict[str, st.SearchStrategy[Any]] = {
        "type": st.one_of(TYPE, st.lists(TYPE, min_size=1, max_size=2, unique=True)),
        "properties": named,
        "additionalProperties": inner,
        "items": inner,
        "prefixItems": some,
        "anyOf": some,
        "oneOf": some,
        "allOf": some,
        "not": inner,
        "if": inner,
        "then": inner,
        "enum": st.lists(DATA, min_size=1, max_size=3),
        "const": DATA,
        "default": DATA,
        "minimum": st.integers(-3, 3),
        "minLength": st.integers(0, 3),
        "minItems": st.integers(0, 3),
        "uniqueItems": st.booleans(),
        "required": st.lists(NAME, max_size=2, unique=True),
        "dependentRequired": st.dictionaries(NAME, st.lists(NAME, max_size=2, unique=True), max_size=1),
        "propertyNames": inner,
        "unevaluatedProperties": inner,
        "contains": inner,
        "patternProperties": st.dictionaries(st.sampled_from(["a", "^t"]), inner, max_size=2),
        "pattern": st.sampled_from(["a", "^[a-z]+$"]),
        "description": st.text(max_size=4),
        "$defs": named,
        "$ref": st.sampled_from(["#", "#/$defs/a", "#/properties/a"]),
    }
    chosen = st.lists(st.sampled_from(sorted(keywords)), max_size=4, unique=True)
    return chosen.flatmap(lambda keys: st.fixed_dictionaries({key: keywords[key] for key in keys}))


SCHEMA = st.recursive(st.one_of(st.booleans(), st.fixed_dictionaries({"type": TYPE})), extended, max_leaves=8)


@PROPERTY
@given(SCHEMA, DATA)
def test_data_has_problems_exactly_if_it_is_invalid(schema: Any, data: Any) -> None:
    try:
        valid = jsonschema_rs.Draft202012Validator(schema).is_valid(data)
    except ValueError:
        valid = False  # the schema refers to something that does not exist
    problems = validate(data, schema)
    assert (problems == []) == valid
    assert all(each.what and str(each) for each in problems)


ODD = st.recursive(
    st.one_of(
        LEAF, st.floats(), st.text(), st.binary(max_size=3), st.builds(object), st.builds(lambda: 10**5000), st.just(1j)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), inner, max_size=3),
    ),
    max_leaves=6,
)
KEYWORD = st.sampled_from(
    (
        *("type", "properties", "items", "anyOf", "allOf", "not", "enum", "required", "$ref", "$defs", "default", "if"),
        *("additionalProperties", "minimum", "$id", "$schema", "$anchor", "patternProperties", "prefixItems", "then"),
    )
)


@PROPERTY
@given(st.one_of(SCHEMA, ODD, st.dictionaries(KEYWORD, ODD, max_size=4)), st.one_of(DATA, ODD))
def test_nothing_crashes_the_validation(schema: Any, data: Any) -> None:
    for problem in validate(data, schema, base=("top", 0)):
        str(problem).encode()
    if isinstance(schema, dict) and isinstance(data, dict):
        assert set(data) <= set(with_defaults(data, schema))


@PROPERTY
@given(SCHEMA.filter(lambda schema: isinstance(schema, dict)), st.dictionaries(NAME, DATA, max_size=3))
def test_defaults_only_add(schema: dict[str, Any], data: dict[str, Any]) -> None:
    before = copy.deepcopy((schema, data))
    filled = with_defaults(data, schema)
    assert (schema, data) == before
    assert {key: filled[key] for key in data if not isinstance(data[key], (dict, list))} == {
        key: value for key, value in data.items() if not isinstance(value, (dict, list))
    }
