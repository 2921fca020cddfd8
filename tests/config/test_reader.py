"""The strict YAML reader: data, positions, bounds, and every mistake in one pass."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.config import reader
from kdcore.config.reader import read_config, read_text
from kdcore.config.source import Source
from kdcore.errors import ConfigError, Problem

PROPERTY = settings(derandomize=True, deadline=None, database=None, max_examples=200)
LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")

EXAMPLE = """\
version: 1
stages:
  - name: hint
    losses: {kd: {type: kd, params: {temperature: 4}}}
  - name: distill
    epochs: 5
"""


def problems_of(text: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        read_text(text, "c.yaml")
    return list(caught.value.problems)


def only_problem(text: str) -> str:
    (problem,) = problems_of(text)
    return str(problem)


# Scalars


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("NULL", None),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("0", 0),
        ("-12", -12),
        ("+3", 3),
        ("1e-7", 1e-7),
        ("1E5", 1e5),
        (".5", 0.5),
        ("1.", 1.0),
        ("-2.5e+3", -2500.0),
        ("0.0", 0.0),
        ("'5'", "5"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("!!int '5'", 5),
        ("!!float 3", 3.0),
        ("!!null ''", None),
        # What other readers of YAML turn into something else.
        ("yes", "yes"),
        ("No", "No"),
        ("on", "on"),
        ("OFF", "OFF"),
        ("y", "y"),
        ("2026-01-01", "2026-01-01"),
        ("2026-01-01T10:00:00Z", "2026-01-01T10:00:00Z"),
        ("1:30", "1:30"),
        ("190:20:30.15", "190:20:30.15"),
        ("1_000", "1_000"),
        ("0x1F", "0x1F"),
        ("0o17", "0o17"),
        ("0b101", "0b101"),
        ("1.0.0", "1.0.0"),
        ("e5", "e5"),
        ("nan", "nan"),
        ("=", "="),
        ("'\U0001f600'", "\U0001f600"),
        ('"\\ud83d\\ude00"', "\U0001f600"),
    ],
)
def test_scalar(text: str, value: object) -> None:
    read = read_text(f"a: {text}").data["a"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "what", "repair"),
    [
        (".inf", r"\.inf is not a finite number", "write a number"),
        ("-.Inf", "not a finite number", "write a number"),
        (".NaN", "not a finite number", "write a number"),
        ("1e999", "1e999 is too large for a number", "quotes"),
        ("9" * 101, "a number of 101 characters is too long", "quotes"),
        ("010", "010 starts with a zero: octal to some, decimal to others", "write 10, or '010' if it is text"),
        ("-007", "starts with a zero", "write -7, or '-007'"),
        ("00.5", "starts with a zero", "write 0.5, or '00.5'"),
        ("00", "starts with a zero", "write 0, or '00'"),
        ("!!int 1.5", "'1.5' is not what its tag !!int says", "remove the tag"),
        ("!!bool yes", "'yes' is not what its tag !!bool says", "remove the tag"),
        ('"\\ud800"', "half of a surrogate pair", "write the character itself"),
    ],
)
def test_scalar_that_means_nothing(text: str, what: str, repair: str) -> None:
    (problem,) = problems_of(f"a: {text}")
    assert re.search(what, problem.what)
    assert repair in problem.repair
    assert (problem.place.path, problem.place.line, problem.place.column) == ("a", 1, 4)


# Keys, merges, tags


def test_duplicate_key_names_both_places() -> None:
    text = "a:\n  b: 1\n  c: 2\n  b: 3\n"
    assert only_problem(text).startswith(
        "c.yaml:4:3: a.b: the key 'b' stands twice in this mapping, first at line 2, column 3"
    )


@pytest.mark.parametrize("key", ["1", "true", "null", "1.5", "~"])
def test_key_that_is_not_text(key: str) -> None:
    assert f"a key must be text, found {key}\n    put it in quotes: '{key}'" in only_problem(f"x: {{{key}: a}}")


def test_key_that_is_a_list() -> None:
    assert "c.yaml:1:3: a key must be text, found a list" in only_problem("? [1, 2]\n: x")


def test_yes_and_on_are_keys_like_any_other() -> None:
    assert read_text("yes: 1\non: 2\n'1': 3").data == {"yes": 1, "on": 2, "1": 3}


def test_key_that_only_looks_like_a_number_is_text() -> None:
    assert read_text("010: a\n1_0: b").data == {"010": "a", "1_0": "b"}


def test_merge_gives_way_to_explicit_keys_and_to_earlier_merges() -> None:
    text = "x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz: {<<: [*x, *y], a: 0}\nw:\n  a: 0\n  <<: *y\n"
    data = read_text(text).data
    assert data["z"] == {"a": 0, "b": 1, "c": 2}
    assert data["w"] == {"a": 0, "b": 2, "c": 2}


def test_merged_duplicates_among_explicit_keys_are_errors() -> None:
    assert "'b' stands twice" in only_problem("x: &x {b: 1}\ny: {<<: *x, b: 2, b: 3}")


def test_merge_twice_and_merge_of_a_scalar() -> None:
    assert "'<<' stands twice" in only_problem("x: &x {b: 1}\ny: {<<: *x, <<: *x}")
    assert "'<<' merges mappings, found a single value" in only_problem("<<: 1\na: 2")


def test_quoted_merge_key_is_an_ordinary_key() -> None:
    assert read_text("'<<': 1").data == {"<<": 1}


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("!!python/object/apply:os.system", "[ls]"),
        ("!!python/name:os.system", "''"),
        ("!foo", "5"),
        ("!import_call", "{a: 1}"),
        ("!!timestamp", "2026-01-01"),
        ("!!binary", "aGk="),
        ("!!set", "{a}"),
        ("!!map", "[1]"),
    ],
)
def test_tag(tag: str, value: str) -> None:
    message = only_problem(f"a: {tag} {value}")
    assert message.startswith(f"c.yaml:1:4: a: the tag {tag} is not allowed here: a config is data")


def test_every_mistake_is_reported_in_order() -> None:
    found = problems_of("a: .inf\nb: !foo 1\nc: {d: 010, d: 2}\n3: x\ne: [1, {f: .nan}]\n")
    assert [(each.place.line, each.place.path) for each in found] == [
        (1, "a"),
        (2, "b"),
        (3, "c.d"),
        (3, "c.d"),
        (4, ""),
        (5, "e.1.f"),
    ]


def test_mistake_inside_an_anchor_is_reported_once() -> None:
    assert len(problems_of("a: &x {b: .inf}\nc: *x\nd: [*x, *x]\n")) == 1


# Documents and syntax


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "null", "~"])
def test_empty(text: str) -> None:
    assert "c.yaml:1:1: the config is empty" in only_problem(text)


@pytest.mark.parametrize(("text", "found"), [("a", "a single value"), ("- a", "a list"), ("[a: 1]", "a list")])
def test_no_mapping_at_the_top(text: str, found: str) -> None:
    assert f"the config is {found}, not a mapping" in only_problem(text)


@pytest.mark.parametrize(
    ("text", "line", "column", "what"),
    [
        ("a: 1\n---\nb: 2", 2, 1, "a second document begins here"),
        ("a:\n\tb: 1", 2, 1, "a tab where YAML wants spaces"),
        ("a: b\tc", 1, 5, "a tab where YAML wants spaces"),
        ("a: 1\t# c", 1, 5, "a tab where YAML wants spaces"),
        ("a: [1, 2", 1, 9, r"a '\[' that is never closed, or a missing ','; it opens at line 1, column 4"),
        ("a: {b: 1\nc: 2", 2, 2, r"a '\{' that is never closed, or a missing ','; it opens at line 1, column 4"),
        ("a: 'x", 1, 6, "quotes that are never closed"),
        ("a: b: c", 1, 5, "a ':' that cannot stand here"),
        ("a: 1\n b: 2", 2, 3, "a ':' that cannot stand here"),
        ("- a\nb: 1", 2, 1, "a line or value that does not fit what stands above it"),
        ("a: 'b' c", 1, 8, "a line or value that does not fit"),
        ("a: - b", 1, 4, "a '- ' that cannot stand here"),
        ("a: %x", 1, 4, "text cannot start with '%'"),
        ("a: @x", 1, 4, "text cannot start with '@'"),
        ("a: `x`", 1, 4, "text cannot start with '`'"),
        ('a: "\\q"', 1, 6, r"\\ cannot be followed by 'q' here"),
        ('a: "\\x1"', 1, 7, "an escape that is too short"),
        ('a: "\\U00110000"', 1, 7, "out of range"),
        ("a: *b", 1, 4, r"\*b names no anchor"),
        ("a: &x 1\nb: &x 2", 2, 4, "the anchor &x is defined twice"),
        ("a: 1\nbc\n", 3, 1, "neither 'key: value' nor '- item'"),
        ("!x!y a: 1", 1, 1, "the tag !x!... is not allowed"),
        ("%YAML 2.0\n---\na: 1", 1, 1, "a directive that is not understood"),
        ("a: [,]", 1, 5, "a missing value"),
        ("a: & b", 1, 5, "without a name"),
        ("a: |x\n  b", 1, 5, "followed by something else"),
        ("ab: \x00", 1, 5, r"the character U\+0000 cannot stand in YAML"),
        ("a: 1\nb: \x1b", 2, 4, r"U\+001B"),
    ],
)
def test_syntax_error(text: str, line: int, column: int, what: str) -> None:
    (problem,) = problems_of(text)
    assert re.search(what, problem.what)
    assert (problem.place.file, problem.place.line, problem.place.column) == ("c.yaml", line, column)
    assert problem.repair


def test_reference_to_the_environment_inside_braces_needs_quotes() -> None:
    assert "put '${...}' in quotes inside [...] and {...}" in only_problem("a: {lr: ${env:LR}}")


# Bounds


def nested(levels: int) -> str:
    return "a: " + "[" * levels + "]" * levels


def test_depth() -> None:
    assert read_text(nested(reader.MAX_DEPTH - 1)).data
    assert "nested more than 64 levels deep" in only_problem(nested(reader.MAX_DEPTH))
    assert "nested more than 64 levels deep" in only_problem(nested(50_000))


def test_depth_through_aliases() -> None:
    lines = ["a0: &a0 [[[[[[[[[[x]]]]]]]]]]"]
    lines += [f"a{n}: &a{n} [[[[[[[[[[*a{n - 1}]]]]]]]]]]" for n in range(1, 8)]
    assert "nested more than 64 levels deep" in str(problems_of("\n".join(lines))[0])


@pytest.mark.parametrize(
    ("first", "line"),
    [("a0: &a0 [x, x, x, x, x, x, x, x, x]", "a{}: &a{} [{}]"), ("a0: &a0 {x: 1}", "a{}: &a{} {{<<: [{}]}}")],
    ids=["aliases", "merges"],
)
def test_billion_laughs(first: str, line: str) -> None:
    lines = [first, *(line.format(n, n, ", ".join([f"*a{n - 1}"] * 9)) for n in range(1, 12))]
    assert "more than 100000 values" in only_problem("\n".join(lines))


def test_number_of_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_NODES", 100)
    assert len(read_text("a: [" + "1, " * 90 + "]").data["a"]) == 90
    assert "values" in only_problem("a: [" + "1, " * 100 + "]")


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "a: &a {<<: *a, b: 1}", "a: &a [{b: [*a]}]"])
def test_recursive_alias(text: str) -> None:
    assert "an alias that contains itself" in only_problem(text)


def test_size() -> None:
    fits = "a: " + "x" * (reader.MAX_BYTES - 3)
    assert len(read_text(fits).data["a"]) == reader.MAX_BYTES - 3
    assert "the config is longer than 1048576 characters" in only_problem(fits + "x")


# The comment that cuts an address


@pytest.mark.parametrize(
    ("text", "cut", "meant"),
    [
        ("input: student:layer4 #0", "student:layer4", "student:layer4#0"),
        ("x: student@raw #aux", "student@raw", "student@raw#aux"),
        ("inputs: {}\ninput: student #hidden", "student", "student#hidden"),
        ("inputs:\n  a: teacher #hidden  # first", "teacher", "teacher#hidden"),
        ("inputs:\n  - b\n  - student:a.0 #1#k", "student:a.0", "student:a.0#1#k"),
        ("like: teacher #0\r\nb: 1", "teacher", "teacher#0"),
    ],
)
def test_comment_that_cuts_an_address(text: str, cut: str, meant: str) -> None:
    (problem,) = problems_of(text)
    assert problem.what == f"a ' #' starts a comment, so the address is cut to {cut!r}"
    assert problem.repair.startswith(f"write {meant} without the space")


@pytest.mark.parametrize(
    "text",
    [
        "x: 1  # comment",
        "x: 1 #comment",
        "inputs: {a: student}  # comment",
        "inputs:\n  a: student  # comment",
        "inputs:\n  a: student:layer4  # the last one",
        "inputs:\n  a: student:layer4 #the last one",
        "inputs:\n  a: student:layer4 # 0",
        "inputs:\n  a: student:layer4#0 # 0",
        "inputs:\n  a: 5 #0",
        "inputs:\n  a: student:layer4 ## 0",
        "type: kd #default",
        "type: kd-plugin-kd:kd #ours",
        "device: cuda:1 #gpu",
        "host: localhost:8080 #dev",
        "name: student #hidden",
        "path: runs/a:b.pt #best",
        "a: student:layer4\n#0",
        "a: 'student:layer4 #0'",
        "a: |\n  student:layer4 #0\n",
    ],
)
def test_ordinary_comments_are_left_alone(text: str) -> None:
    assert isinstance(read_text(text), Source)


def test_address_cut_inside_braces_is_named_in_the_syntax_error() -> None:
    message = only_problem("a: {input: student:layer4 #0}\nb: 1\n")
    assert "a ' #' starts a comment, which hides the rest of the line: write student:layer4#0" in message


# Places


def test_places() -> None:
    source = read_text(EXAMPLE, "c.yaml")
    losses = ("stages", 0, "losses")
    assert str(source.place((*losses, "kd", "params", "temperature"))) == (
        "c.yaml:4:51: stages.hint.losses.kd.params.temperature"
    )
    assert str(source.place((*losses, "kd", "type"), key=True)) == "c.yaml:4:19: stages.hint.losses.kd.type"
    assert str(source.place(("stages", 1, "epochs"))) == "c.yaml:6:13: stages.distill.epochs"
    assert str(source.place(("stages", 1))) == "c.yaml:5:5: stages.distill"
    assert str(source.place(())) == "c.yaml:1:1"


def test_place_of_what_is_missing_is_what_surrounds_it() -> None:
    source = read_text(EXAMPLE, "c.yaml")
    assert str(source.place(("stages", 1, "losses", "kd"), key=True)) == "c.yaml:5:5: stages.distill.losses.kd"
    assert str(source.place(("stages", 7, "name"))) == "c.yaml:3:3: stages.7.name"
    assert str(source.place(("nowhere",))) == "c.yaml:1:1: nowhere"


def test_place_of_items_without_a_usable_name_is_their_index() -> None:
    source = read_text("a: [x, {name: 3}, {name: n}, {name: n}, {name: '7'}, {name: a.b}]")
    assert [source.place(("a", n)).path for n in range(6)] == ["a.0", "a.1", "a.2", "a.3", "a.4", 'a."a.b"']


def test_places_survive_anchors() -> None:
    source = read_text("x: &x\n  k: 1\na: *x\nb:\n  <<: *x\n  j: 2\n", "c.yaml")
    assert str(source.place(("a", "k"))) == "c.yaml:2:6: a.k"
    assert str(source.place(("a",), key=True)) == "c.yaml:3:1: a"
    assert str(source.place(("b", "k"))) == "c.yaml:2:6: b.k"
    assert str(source.place(("b", "j"))) == "c.yaml:6:6: b.j"


def test_aliases_share_nothing() -> None:
    data = read_text("x: &x [1]\na: *x\n").data
    data["a"].append(2)
    assert data["x"] == [1]


# Files


def test_read_config(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes("\ufeffname: Ünï\r\nb: 2\r\n".encode())
    source = read_config(file)
    assert source.data == {"name": "Ünï", "b": 2}
    assert str(source.place(("b",))) == f"{file}:2:4: b"
    assert source.file == str(file)
    assert source.text.startswith("name")


def file_problem(path: Path | str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    return str(caught.value.problems[0])


def test_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").touch()
    message = file_problem(tmp_path / "digit.yaml")
    assert "there is no such file" in message
    assert "did you mean 'digits.yaml'?" in message
    assert "there is no such file" in file_problem(tmp_path / "no" / "such" / "c.yaml")


def test_folder_nul_and_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "this is a folder, not a config file" in file_problem(tmp_path)
    assert "the file cannot be read" in file_problem("a\0b")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "the file cannot be read: Permission denied" in file_problem(tmp_path / "c.yaml")


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"a: 1\nb: \xc3\xa4\xff\n")
    assert file_problem(file).startswith(f"{file}:2:5: the byte 0xff is not UTF-8 text")
    file.write_bytes("a: 1".encode("utf-16"))
    assert "is not UTF-8 text" in file_problem(file)


def test_file_that_is_too_large(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"#" * (reader.MAX_BYTES + 1))
    assert "the file is larger than 1048576 bytes" in file_problem(file)


# Properties

FRAGMENTS = (
    *("a", "b: ", " ", "\n", "  ", "- ", "&x ", "*x ", "<<: ", "!!int ", "!foo ", "{", "}", "[", "]", ", ", "'", '"'),
    *(
        "#",
        "1",
        "0",
        "e",
        "\\U",
        "\\u",
        "ffff",
        "d800",
        "---\n",
        "...\n",
        "|",
        "> ",
        "? ",
        ": ",
        "${env:X}",
        "%YAML 1.",
    ),
    *("\t", "\r", "\u2028", "\x85", "\x00", "\ud800", "\ufeff", "student:l #0", "input: "),
)
YAML_LIKE = st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join)


@PROPERTY
@given(st.one_of(YAML_LIKE, st.text()))
def test_any_text_is_a_source_or_a_config_error(text: str) -> None:
    try:
        source = read_text(text)
    except ConfigError as error:
        found = [(each.place.line, each.place.column) for each in error.problems]
    else:
        found = [(spot.line, spot.column) for spot in source.spots.values()]
        json.dumps(source.data, allow_nan=False).encode()
    lines = LINE_BREAK.split(text)
    assert found
    assert all(1 <= line <= len(lines) and 1 <= column <= len(lines[line - 1]) + 1 for line, column in found)


# DEL cannot stand in YAML unescaped. Texts of digits alone are tested above: emitters that follow
# YAML 1.1 leave some of them, such as 1e5 and 08, without quotes.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=12).filter(
    lambda text: not re.fullmatch("[-+.0-9eE]+", text)
)
LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT)
DATA = st.recursive(
    LEAF, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)), max_leaves=12
)


@PROPERTY
@given(st.dictionaries(TEXT, DATA, min_size=1, max_size=4))
def test_dumped_data_reads_back_equal(data: dict[str, object]) -> None:
    # As JSON, so that 1, 1.0 and true count as different.
    expected = json.dumps(data, sort_keys=True)
    for text in (yaml.safe_dump(data), yaml.safe_dump(data, default_style='"'), json.dumps(data)):
        assert json.dumps(read_text(text).data, sort_keys=True) == expected


@PROPERTY
@given(st.dictionaries(st.from_regex("[a-z]{3,5}_", fullmatch=True), DATA, min_size=1, max_size=4))
def test_keys_stand_where_their_places_say(data: dict[str, object]) -> None:
    text = yaml.safe_dump(data)
    source = read_text(text)
    for key in data:
        place = source.place((key,), key=True)
        line = LINE_BREAK.split(text)[place.line - 1]
        assert line[place.column - 1 :].startswith(f"{key}:")


def test_reading_needs_no_torch() -> None:
    modules = "reader, overrides, environment, validation, schemas"
    code = f"import sys; from kdcore.config import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
