"""What is wrong with text that is not YAML, in our words."""

from __future__ import annotations

import re

import yaml

from kdcore.address import Address
from kdcore.errors import AddressError, Place, Problem

# PyYAML's reason, what we say instead, and the repair; the first that matches is used.
_REASONS = tuple(
    (re.compile(pattern), what, repair)
    for pattern, what, repair in (
        (r"'\\t' that cannot start", "a tab where YAML wants spaces", "indent and separate with spaces"),
        (r"character '%' that cannot", "text cannot start with '%'", "put it in quotes"),
        (r"character ('.'|\"'\") that cannot", "text cannot start with {0}", "put it in quotes"),
        (
            r"mapping values are not allowed",
            "a ':' that cannot stand here",
            "put text that contains ': ' in quotes; start the keys of one mapping in the same column",
        ),
        (r"sequence entries are not allowed", "a '- ' that cannot stand here", "start the list on a line of its own"),
        (r"mapping keys are not allowed", "a '? ' that cannot stand here", "put the text in quotes"),
        (r"could not find expected ':'", "a line that is neither 'key: value' nor '- item'", "add the ':'"),
        (r"unexpected end of stream", "quotes that are never closed", "close them"),
        (r"unexpected document separator", "'---' or '...' inside quotes", "close the quotes before it"),
        (r"unknown escape character (.*)", "\\ cannot be followed by {0} here", "write \\\\ or use single quotes"),
        (r"expected escape sequence", "an escape that is too short", "write \\x41, \\u0041 or \\U00000041"),
        (r"expected ',' or '\]'", "a '[' that is never closed, or a missing ','", "close it with ']'"),
        (r"expected ',' or '\}'", "a '{{' that is never closed, or a missing ','", "close it with '}}'"),
        (r"expected <block end>", "a line or value that does not fit what stands above it", "check its indentation"),
        (r"expected the node content", "a missing value", "write the value; put text such as '[' or ',' in quotes"),
        (r"undefined alias '(.*)'", "*{0} names no anchor", "define it earlier as &{0}, or put the text in quotes"),
        (r"duplicate anchor '(.*?)'", "the anchor &{0} is defined twice", "rename one of the two"),
        (r"undefined tag handle '(.*)'", "the tag {0}... is not allowed: a config is data", "remove the tag"),
        (r"another document", "a second document begins here", "a config is one document: remove '---'"),
        (r"incompatible YAML|YAML directive|document start", "a directive that is not understood", "remove the % line"),
        (r"alphabetic or numeric", "'&' or '*' without a name", "put text that starts with '&' or '*' in quotes"),
        (r"block scalar|indentation indicator", "'|' or '>' followed by something else", "start the text below it"),
    )
)
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_KEY = r"(?P<key>[A-Za-z_][\w.-]*|-?[0-9]+)(?P<more>(#[\w.-]+)*)"
_CUT_VALUE = re.compile(rf"[ \t]+#{_KEY}[ \t]*(#.*)?$", re.MULTILINE)
_CUT_LINE = re.compile(rf"(?P<address>[A-Za-z_][\w.:@-]*)[ \t]+#{_KEY}(?=[\s,\]}}]|$)")
_ADDRESS_KEYS = frozenset(("input", "inputs", "like", "target", "address"))


def syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    """Return the problem behind an error of PyYAML."""
    if isinstance(error, yaml.reader.ReaderError):
        line, column = position(text, error.position)
        what = f"the character U+{ord(text[error.position]):04X} cannot stand in YAML"
        return Problem(what, Place("", file, line, column), 'write it as an escape in double quotes, such as "\\x07"')
    assert isinstance(error, yaml.MarkedYAMLError)
    mark = error.problem_mark or error.context_mark
    place = Place("", file, mark.line + 1, mark.column + 1) if mark else Place("", file)
    what, repair = _words(error)
    if "flow" in (error.context or "") and error.context_mark:
        what += f"; it opens at line {error.context_mark.line + 1}, column {error.context_mark.column + 1}"
    start = error.context_mark.line if error.context_mark else place.line - 1
    hint = _hint("\n".join(text.splitlines()[start : place.line]))
    return Problem(what, place, "; ".join(part for part in (hint, repair) if part))


def position(text: str, index: int) -> tuple[int, int]:
    """Return line and column, counted from 1, of a character of `text`."""
    lines = _LINE_BREAK.split(text[:index])
    return len(lines), len(lines[-1]) + 1


def cut_address(value: str, rest: str, path: tuple[str | int, ...]) -> str | None:
    """Return the address that was meant where ` #` cut the key off `value`; `rest` follows it on its line."""
    match = _CUT_VALUE.match(rest)
    if match is None or not _is_address(value, path):
        return None
    return _joined(value, match)


def _words(error: yaml.MarkedYAMLError) -> tuple[str, str]:
    reason = ": ".join(part for part in (error.context, error.problem) if part)
    for pattern, what, repair in _REASONS:
        if match := pattern.search(reason):
            groups = match.groups()
            return what.format(*groups), repair.format(*groups)
    return f"this is not YAML: {reason}", ""


def _hint(lines: str) -> str:
    for match in _CUT_LINE.finditer(lines):
        meant = _joined(match["address"], match)
        if meant is not None:
            return f"a ' #' starts a comment, which hides the rest of the line: write {meant} without the space"
    if "${" in lines:
        return "put '${...}' in quotes inside [...] and {...}"
    return ""


def _joined(value: str, match: re.Match[str]) -> str | None:
    meant = f"{value}#{match['key']}{match['more']}"
    try:
        Address.parse(meant)
    except AddressError:
        return None
    return meant


def _is_address(value: str, path: tuple[str | int, ...]) -> bool:
    # Elsewhere a bare name, cuda:1 or host:8080 is hardly an address, and `type: distribution:name` never is.
    if not _ADDRESS_KEYS.isdisjoint(path):
        return True
    _, mark, inner = value.partition("@" if "@" in value else ":")
    return bool(mark) and not inner[:1].isdecimal() and "type" not in path[-1:]
