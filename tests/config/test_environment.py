"""Environment variables in the texts of a config."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.config.environment import expand_environment
from kdcore.config.reader import read_text
from kdcore.errors import ConfigError

ENVIRON = {"LR": "0.1", "ON": "true", "EMPTY": "", "LIST": "[1, 2]", "MAP": "{a: 1}", "TEXT": " a b ", "BAD": "\udcff"}


def expanded(value: str) -> object:
    return expand_environment(read_text(f"a: {value}"), ENVIRON).data["a"]


def message(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        expand_environment(read_text(text, "c.yaml"), ENVIRON)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${env:LR}", 0.1),
        ("'${env:LR}'", 0.1),
        ("${env:ON}", True),
        ("${env:EMPTY}", None),
        ("x${env:EMPTY}", "x"),
        ("${env:LR}x", "0.1x"),
        ("${env:LR}${env:LR}", "0.10.1"),
        ("${env:NO:-5}", 5),
        ("${env:NO:-}", None),
        ("${env:EMPTY:-5}", 5),
        ("${env:LR:-5}", 0.1),
        ("${env:NO:-a:b-c}", "a:b-c"),
        ("runs/${env:NO:-x}/y", "runs/x/y"),
        ("${env:TEXT}", " a b "),
        ("$${env:LR}", "${env:LR}"),
        ("$${env:LR} ${env:LR}", "${env:LR} 0.1"),
        ("$LR {x} $$", "$LR {x} $$"),
        # Variables bring scalars, never structure.
        ("${env:LIST}", "[1, 2]"),
        ("${env:MAP}", "{a: 1}"),
    ],
)
def test_reference(text: str, value: object) -> None:
    assert expanded(text) == value
    assert type(expanded(text)) is type(value)


def test_only_values_are_expanded_and_the_original_stays() -> None:
    source = read_text("'${env:LR}': ['${env:LR}', {b: '${env:LR}'}]")
    assert expand_environment(source, ENVIRON).data == {"${env:LR}": [0.1, {"b": 0.1}]}
    assert source.data == {"${env:LR}": ["${env:LR}", {"b": "${env:LR}"}]}


@pytest.mark.parametrize(
    ("text", "what", "repair"),
    [
        ("${env:NOPE}", "the environment variable NOPE is not set", "set it, or give a default: ${env:NOPE:-...}"),
        ("x ${env:LRR} y", "the environment variable LRR is not set", "did you mean LR? else"),
        ("${foo:x}", "${foo:x} is not understood", "write ${env:NAME} or ${env:NAME:-default}"),
        ("${LR}", "${LR} is not understood", "$${ for a literal ${"),
        ("${env:1A}", "${env:1A} is not understood", "write ${env:NAME}"),
        ("${env:A-b}", "${env:A-b} is not understood", "write ${env:NAME}"),
        ("${}", "${} is not understood", "write ${env:NAME}"),
        ("${env:LR", "a '${' that is never closed", "close it with '}'"),
        ("${env:NO:-.inf}", "${env:NO:-.inf}: .inf is not a finite number", "write a number"),
        ("${env:NO:-010}", "${env:NO:-010}: 010 starts with a zero", "write 10"),
        ("${env:BAD}", "the environment variable BAD is not UTF-8 text", "set it to text"),
    ],
)
def test_mistake(text: str, what: str, repair: str) -> None:
    found = message(f"a:\n  b: {text}")
    assert f"c.yaml:2:6: a.b: {what}" in found
    assert repair in found


def test_every_mistake_is_reported() -> None:
    assert message("a: '${env:A} ${env:B}'\nb: ['${x}']").startswith("3 errors in the config")


@settings(derandomize=True, deadline=None, database=None, max_examples=200)
@given(st.text())
def test_any_value_of_a_variable_becomes_a_scalar(value: str) -> None:
    source = read_text("a: '${env:X}'\nb: 'x${env:X}'")
    try:
        data = expand_environment(source, {"X": value}).data
    except ConfigError as error:
        data = {"a": None, "b": f"x{value}"}
        places = {each.place.path for each in error.problems}
    else:
        places = {"a"}
    assert places <= {"a", "b"}
    assert isinstance(data["a"], (str, int, float, bool, type(None)))
    assert data["b"] == f"x{value}"
