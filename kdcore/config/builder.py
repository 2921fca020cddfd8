"""Composed YAML nodes to plain data, with a position for every value."""

from __future__ import annotations

import re
from typing import Any

import yaml

from kdcore.config.scalar import ScalarError, read_scalar
from kdcore.config.source import Path, Spot, dotted
from kdcore.config.syntax import cut_address
from kdcore.errors import ConfigError, Place, Problem

MAX_DEPTH = 64
MAX_NODES = 100_000
TOO_DEEP = f"the config is nested more than {MAX_DEPTH} levels deep"
TOO_MANY = f"the config has more than {MAX_NODES} values"

# The tags of nodes: an unquoted scalar has its own, so that only those are read as numbers and the like.
_CORE = "tag:yaml.org,2002:"
PLAIN = "plain"
TEXT, LIST, MAPPING = f"{_CORE}str", f"{_CORE}seq", f"{_CORE}map"
_TYPED = {f"{_CORE}int": int, f"{_CORE}float": float, f"{_CORE}bool": bool, f"{_CORE}null": type(None)}
_SURROGATE = re.compile("[\ud800-\udfff]")
_MERGE = "<<"

Pair = tuple[yaml.Node, yaml.Node]


def is_null(node: yaml.Node) -> bool:
    """Return whether `node` is an empty or null value."""
    return isinstance(node, yaml.ScalarNode) and node.tag == PLAIN and _meaning(node.value) is None


def kind_of(node: yaml.Node) -> str:
    """Return what a node is, as messages call it."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a single value"


class _FullError(Exception):
    """The data is larger than a config may be once its aliases are written out."""


class Builder:
    """Turns composed nodes into plain data, noting positions and problems."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.spots: dict[Path, Spot] = {}
        self.nodes = 0
        self.active: set[int] = set()
        # By position and words, so that what an anchor holds is reported once, however often it is used.
        self.found: dict[tuple[int, int, str], tuple[Path, str]] = {}

    def read(self, root: yaml.Node, path: Path) -> Any:
        """Return the data below `root`; raises ConfigError with every problem."""
        data = None
        try:
            data = self._build(root, path, None)
        except _FullError:
            self._problem(TOO_MANY, root, path, "write less, or use fewer aliases")
        if self.found:
            raise ConfigError(
                Problem(what, Place(dotted(where, data), self.file, line, column), repair)
                for (line, column, what), (where, repair) in sorted(self.found.items(), key=lambda item: item[0])
            )
        return data

    def _problem(self, what: str, node: yaml.Node, path: Path, repair: str = "") -> None:
        mark = node.start_mark
        self.found.setdefault((mark.line + 1, mark.column + 1, what), (path, repair))

    def _count(self) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _FullError

    def _build(self, node: yaml.Node, path: Path, key: yaml.Node | None) -> Any:
        self._count()
        start, key_start = node.start_mark, key.start_mark if key else None
        self.spots[path] = Spot(
            self.file,
            start.line + 1,
            start.column + 1,
            key_start.line + 1 if key_start else 0,
            key_start.column + 1 if key_start else 0,
        )
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self.active:
            self._problem("an alias that contains itself", node, path, "write the value out")
            return None
        if len(path) >= MAX_DEPTH:
            self._problem(TOO_DEEP, node, path, "write it flatter")
            return None
        self.active.add(id(node))
        data = self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._list(node, path)
        self.active.remove(id(node))
        return data

    def _list(self, node: yaml.Node, path: Path) -> list[Any]:
        self._check_tag(node, path, LIST)
        return [self._build(item, (*path, index), None) for index, item in enumerate(node.value)]

    def _mapping(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        return {name: self._build(value, (*path, name), key) for name, (key, value) in self._pairs(node, path).items()}

    def _pairs(self, node: yaml.Node, path: Path) -> dict[str, Pair]:
        """Return key and value nodes by key, with what `<<` merges in; the mapping's own keys win."""
        self._check_tag(node, path, MAPPING)
        own: dict[str, Pair] = {}
        merges: dict[str, Pair] = {}
        for key, value in node.value:
            self._count()
            is_merge = key.tag == PLAIN and key.value == _MERGE
            name = _MERGE if is_merge else self._key(key, path)
            if name is None:
                continue
            pairs = merges if is_merge else own
            if name in pairs:
                first = pairs[name][0].start_mark
                where = f"line {first.line + 1}, column {first.column + 1}"
                what = f"the key {name!r} stands twice in this mapping, first at {where}"
                self._problem(what, key, (*path, name), "remove or rename one of the two")
            else:
                pairs[name] = (key, value)
        merged = self._merged(merges[_MERGE][1], path) if merges else {}
        return {**merged, **own}

    def _merged(self, node: yaml.Node, path: Path) -> dict[str, Pair]:
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Pair] = {}
        for part in reversed(parts):
            if not isinstance(part, yaml.MappingNode):
                self._problem(f"'<<' merges mappings, found {kind_of(part)}", part, path, "write '<<: *name'")
            elif id(part) in self.active:
                self._problem("an alias that contains itself", part, path, "write the keys out")
            else:
                self.active.add(id(part))
                merged.update(self._pairs(part, path))
                self.active.remove(id(part))
        return merged

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._problem(f"a key must be text, found {kind_of(node)}", node, path, "write the key as text")
            return None
        if node.tag == PLAIN and _meaning(node.value) != node.value:
            what = f"a key must be text, found {node.value or 'nothing'}"
            self._problem(what, node, path, f"put it in quotes: '{node.value}'")
            return None
        if node.tag not in (PLAIN, TEXT):
            self._bad_tag(node, path)
            return None
        return self._text(node, path)

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        if node.tag == TEXT:
            return self._text(node, path)
        if node.tag != PLAIN and node.tag not in _TYPED:
            self._bad_tag(node, path)
            return None
        try:
            value = read_scalar(node.value)
        except ScalarError as error:
            self._problem(error.what, node, path, error.repair)
            return None
        if node.tag in _TYPED:
            return self._typed(node, value, path)
        if isinstance(value, str):
            self._check_cut(node, path)
            return self._text(node, path)
        return value

    def _typed(self, node: yaml.Node, value: Any, path: Path) -> Any:
        wanted = _TYPED[node.tag]
        if wanted is float and type(value) is int:
            return float(value)
        if type(value) is not wanted:
            self._problem(f"{node.value!r} is not what its tag {_shown(node.tag)} says", node, path, "remove the tag")
        return value

    def _text(self, node: yaml.Node, path: Path) -> str:
        text: str = node.value
        if not _SURROGATE.search(text):
            return text
        try:
            # JSON writes a character beyond U+FFFF as two escapes.
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            what = "an escape that is half of a surrogate pair"
            self._problem(what, node, path, "write the character itself, or \\U and eight digits")
            return ""

    def _check_cut(self, node: yaml.Node, path: Path) -> None:
        end = node.end_mark.index
        rest = self.text[end : end + 200].split("\n", 1)[0].rstrip("\r")
        meant = cut_address(node.value, rest, path)
        if meant is not None:
            comment = meant.removeprefix(f"{node.value}#")
            self._problem(
                f"a ' #' starts a comment, so the address is cut to {node.value!r}",
                node,
                path,
                f"write {meant} without the space, or '# {comment}' with one if it is a comment",
            )

    def _check_tag(self, node: yaml.Node, path: Path, expected: str) -> None:
        if node.tag != expected:
            self._bad_tag(node, path)

    def _bad_tag(self, node: yaml.Node, path: Path) -> None:
        what = f"the tag {_shown(node.tag)} is not allowed here: a config is data"
        self._problem(what, node, path, "remove it; values are text, numbers, true, false, null, lists and mappings")


def _shown(tag: str) -> str:
    return tag.replace(_CORE, "!!", 1)


def _meaning(text: str) -> Any:
    """Return what an unquoted scalar means, or its text where nobody can tell."""
    try:
        return read_scalar(text)
    except ScalarError:
        return text
