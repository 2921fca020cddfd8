"""Values given on the command line."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.config.overrides import apply_overrides, resolved_path
from kdcore.config.reader import read_text
from kdcore.config.source import Source, Spot
from kdcore.errors import ConfigError

PROPERTY = settings(derandomize=True, deadline=None, database=None, max_examples=200)

TEXT = """\
name: digits
stages:
  - name: hint
    losses: {kd: kd}
    inputs: [student, teacher]
  - name: distill
    epochs: 20
    early_stop:
  - {name: same}
  - {name: same}
empty: []
"""


@pytest.fixture
def source() -> Source:
    return read_text(TEXT, "c.yaml")


def message(source: Source, *assignments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        apply_overrides(source, assignments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("name=x", ["name"], "x"),
        ("stages.1.epochs=5", ["stages", 1, "epochs"], 5),
        ("stages.distill.epochs=5", ["stages", 1, "epochs"], 5),
        ("stages.distill.lr=1e-3", ["stages", 1, "lr"], 1e-3),
        ("stages.hint.inputs.0=a", ["stages", 0, "inputs", 0], "a"),
        ("stages.hint.losses.kd={type: kd, weight: 2}", ["stages", 0, "losses", "kd"], {"type": "kd", "weight": 2}),
        ("stages.distill.early_stop.patience=3", ["stages", 1, "early_stop"], {"patience": 3}),
        ("stages.0.early_stop.patience=3", ["stages", 0, "early_stop"], {"patience": 3}),
        ("stages.hint={name: new}", ["stages", 0], {"name": "new"}),
        ('weights."layer1.0"=2', ["weights"], {"layer1.0": 2}),
        ('"a b"."c\\"d"=2', ["a b"], {'c"d': 2}),
        ("a=b=c", ["a"], "b=c"),
        ("a = 5", ["a"], 5),
        ("a=", ["a"], None),
        ("a=yes", ["a"], "yes"),
        ("a='5'", ["a"], "5"),
        ("a=[1, {b: 2}]", ["a"], [1, {"b": 2}]),
        ("a=x#0", ["a"], "x#0"),
    ],
)
def test_assignment(source: Source, assignment: str, path: list[str | int], value: object) -> None:
    before = copy.deepcopy(source)
    found: Any = apply_overrides(source, [assignment]).data
    for step in path:
        found = found[step]
    assert found == value
    assert type(found) is type(value)
    assert source == before


def test_assignments_apply_in_turn(source: Source) -> None:
    changed = apply_overrides(source, ["a.b=1", "a.c=2", "a.b=3", "stages.hint.name=renamed", "stages.renamed.x=1"])
    assert changed.data["a"] == {"b": 3, "c": 2}
    assert changed.data["stages"][0]["x"] == 1


def test_true_becomes_a_mapping_where_the_schema_has_both() -> None:
    data = {"models": {"t": {"type": "cnn", "cache": True}}}
    source = Source("c.yaml", "", data, {("models", "t", "cache"): Spot("c.yaml", 2, 8)})
    changed = apply_overrides(source, ["models.t.cache.dtype=int8", "models.t.cache.top_k=4"])
    assert changed.data["models"]["t"] == {"type": "cnn", "cache": {"dtype": "int8", "top_k": 4}}
    assert data["models"]["t"]["cache"] is True
    assert changed.place(("models", "t", "cache")).line == 2
    assert resolved_path(data, "models.t.cache.dtype") == ("models", "t", "cache", "dtype")


@pytest.mark.parametrize(
    ("data", "assignment", "what"),
    [
        ({"models": {"t": {"cache": False}}}, "models.t.cache.dtype=int8", "'models.t.cache' is false"),
        (
            {"models": {"t": {"clone_captures": True}}},
            "models.t.clone_captures.x=1",
            "'models.t.clone_captures' is true",
        ),
        ({"stages": [{"compile": True}]}, "stages.0.compile.x=1", "'stages.0.compile' is true"),
        ({"unknown": True}, "unknown.x=1", "'unknown' is true"),
    ],
)
def test_other_truth_values_have_no_keys(data: dict[str, Any], assignment: str, what: str) -> None:
    where = assignment.partition("=")[0].rpartition(".")[0]
    assert f"{what}, which has no key" in message(Source("c.yaml", "", data, {}), assignment)
    assert f"set the whole of it: {where}={{" in message(Source("c.yaml", "", data, {}), assignment)


def test_place_is_the_command_line(source: Source) -> None:
    changed = apply_overrides(source, ["stages.1.epochs=5", "stages.hint.losses.kd={type: kd, params: {t: 1}}"])
    assert str(changed.place(("stages", 1, "epochs"))) == "--set stages.1.epochs=5: stages.distill.epochs"
    place = changed.place(("stages", 0, "losses", "kd", "params", "t"), key=True)
    assert (place.file, place.path) == (
        "--set stages.hint.losses.kd={type: kd, params: {t: 1}}",
        "stages.hint.losses.kd.params.t",
    )
    assert str(changed.place(("stages", 1, "name"))) == "c.yaml:6:11: stages.distill.name"


def test_place_of_a_created_section(source: Source) -> None:
    changed = apply_overrides(source, ["new.section.key=1"])
    assert str(changed.place(("new", "section"))) == "--set new.section.key=1: new.section"


def test_place_forgets_what_was_replaced(source: Source) -> None:
    changed = apply_overrides(source, ["stages.hint.inputs=none"])
    assert changed.place(("stages", 0, "inputs", 1)).file == "--set stages.hint.inputs=none"


def test_long_assignment_is_shortened_in_the_place(source: Source) -> None:
    place = apply_overrides(source, ["a=" + "x" * 500]).place(("a",))
    assert place.file == "--set a=" + "x" * 115 + "..."


@pytest.mark.parametrize("assignment", ["a", "", "=3", "a..b=1", ".a=1", "a.=1", "a b=1", 'a"b"=1', '"a=1', "a.b c=1"])
def test_malformed(source: Source, assignment: str) -> None:
    expected = (
        f"--set {assignment}: this is not an assignment\n    write path=value, for example stages.distill.epochs=5"
    )
    assert expected in message(source, assignment)


def test_bad_escape_in_a_quoted_key(source: Source) -> None:
    assert r'"\q" is not a quoted key' in message(source, r'"\q"=1')


@pytest.mark.parametrize(
    ("assignment", "what", "repair"),
    [
        ("stages.hnt.x=1", "'stages' has no item 'hnt'", "did you mean 'hint'?"),
        ("stages.4.x=1", "'stages' has no item 4", "it has items 0 to 3"),
        ("stages.4=1", "'stages' has no item 4", "it has items 0 to 3"),
        ("stages.-1.x=1", "'stages' has no item '-1'", "known items: distill, hint, same"),
        (f"stages.{'9' * 5000}=1", "'stages' has no item 999", "it has items 0 to 3"),
        ("stages.same.x=1", "'stages' has several items named 'same'", "name one by its index: 2, 3"),
        ("stages.hint.inputs.x=1", "'stages.hint.inputs' has no item 'x'", "known items: 0, 1"),
        ("empty.0=1", "'empty' has no item 0", "it has no items"),
        ("empty.x=1", "'empty' has no item 'x'", "there are no items to choose from"),
        ("name.x=1", "'name' is \"digits\", which has no key 'x'", "set the whole of it: name={type: digits, x: ...}"),
        ("stages.distill.epochs.x=1", "'stages.distill.epochs' is 20, which has no key 'x'", "epochs={x: ...}"),
        ("stages.hint.lr=010", "stages.hint.lr: 010 starts with a zero", "write 10"),
        ("a=[1", "a '[' that is never closed", "close it"),
        ("a=!!python/name:os.system ''", "the tag !!python/name:os.system is not allowed", "remove it"),
        ("a={b: 1, b: 2}", "the key 'b' stands twice", "remove or rename"),
        ("color=#fff", "color: a value that starts with '#' is a comment in YAML", "put it in quotes: '#fff'"),
        ("stages.hint.inputs.0=student #hidden", "the address is cut to 'student'", "write student#hidden"),
        (".".join("a" * 70) + "={}", "nested more than 64 levels deep", "write it flatter"),
    ],
)
def test_mistake(source: Source, assignment: str, what: str, repair: str) -> None:
    text = message(source, assignment)
    assert what in text
    assert repair in text.partition(what)[2]


def test_every_mistake_is_reported(source: Source) -> None:
    assert message(source, "a", "b=1", "stages.9.x=1", "c=[").startswith("3 errors in the config")


PIECES = ("stages", "hint", "name", "losses", "0", "1", "9" * 30, "-1", ".", "=", '"', "\\", "#", " ", *"{}[]'a")
ASSIGNMENT = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))


@PROPERTY
@given(st.lists(ASSIGNMENT, max_size=3))
def test_any_text_is_applied_or_a_config_error(assignments: list[str]) -> None:
    source = read_text(TEXT)
    before = copy.deepcopy(source)
    files = ["--set nothing failed"]
    try:
        json.dumps(apply_overrides(source, assignments).data, allow_nan=False)
    except ConfigError as error:
        files = [each.place.file for each in error.problems]
    assert files
    assert all(file.startswith("--set ") for file in files)
    assert source == before


LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False))
WORD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=8)
DATA = st.recursive(
    st.one_of(LEAF, WORD), lambda inner: st.one_of(st.lists(inner), st.dictionaries(WORD, inner)), max_leaves=6
)


@PROPERTY
@given(st.lists(WORD, min_size=1, max_size=4), DATA)
def test_any_value_reaches_any_key(keys: list[str], value: object) -> None:
    path = ".".join(json.dumps(key) for key in keys)
    source = read_text("unrelated: 1\n")
    changed: Any = apply_overrides(source, [f"{path}={json.dumps(value)}"])
    found = changed.data
    for key in keys:
        found = found[key]
    assert json.dumps(found) == json.dumps(value)
    # The path that a message shows leads back to the same place.
    shown = changed.place(tuple(keys)).path
    again: Any = apply_overrides(changed, [f"{shown}=7"]).data
    for key in keys:
        again = again[key]
    assert again == 7
