"""YAML text to plain data with positions; every mistake of a file is reported at once."""

from __future__ import annotations

import re
from pathlib import Path as FilePath
from typing import Any, NoReturn

import yaml

from kdcore.config.scalar import ScalarError, read_scalar
from kdcore.config.source import Path, Source, Spot, dotted
from kdcore.config.syntax import cut_address, position, syntax_problem
from kdcore.errors import ConfigError, Place, Problem, suggestion

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_NODES = 100_000

_CORE = "tag:yaml.org,2002:"
_PLAIN = "plain"
_TEXT, _LIST, _MAPPING = f"{_CORE}str", f"{_CORE}seq", f"{_CORE}map"
_TYPED = {f"{_CORE}int": int, f"{_CORE}float": float, f"{_CORE}bool": bool, f"{_CORE}null": type(None)}
_SURROGATE = re.compile("[\ud800-\udfff]")
_MERGE = "<<"
_DATA = "values are text, numbers, true, false, null, lists and mappings"

Pair = tuple[yaml.Node, yaml.Node]


def read_config(path: str | FilePath) -> Source:
    """Read a config file; raises ConfigError with every problem found."""
    file = str(path)
    raw = _bytes(file)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        good = raw[: error.start].decode("utf-8", errors="ignore")
        place = Place("", file, *position(good, len(good)))
        _fail(f"the byte 0x{raw[error.start]:02x} is not UTF-8 text", place, "save the file as UTF-8")
    return read_text(text, file)


def read_text(text: str, file: str = "<config>") -> Source:
    """Read the text of a config; `file` is what messages call it."""
    text = text.removeprefix("\ufeff")
    top = Place("", file, 1, 1)
    root = _compose(text, file)
    if root is None or (isinstance(root, yaml.ScalarNode) and root.tag == _PLAIN and read_or_none(root.value) is None):
        _fail("the config is empty", top, "a config is a mapping that starts with 'version: 1'")
    if not isinstance(root, yaml.MappingNode):
        _fail(f"the config is {_noun(root)}, not a mapping", top, "write 'key: value' lines at the top level")
    builder = _Builder(text, file)
    return Source(file, text, builder.read(root, ()), builder.spots)


def read_value(text: str, file: str, path: Path) -> tuple[Any, dict[Path, Spot]]:
    """Read one value that stands at `path`, by the rules of a file; no text at all is null."""
    root = _compose(text, file)
    builder = _Builder(text, file)
    if root is None:
        return None, {path: Spot(file)}
    return builder.read(root, path), builder.spots


def read_or_none(text: str) -> Any:
    """Return what an unquoted scalar means, or its text where nobody can tell."""
    try:
        return read_scalar(text)
    except ScalarError:
        return text


def _bytes(file: str) -> bytes:
    path = FilePath(file)
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except IsADirectoryError:
        _fail("this is a folder, not a config file", Place("", file), "name the .yaml file in it")
    except FileNotFoundError:
        folder = path.parent
        near = [each.name for each in folder.glob("*.y*ml")] if folder.is_dir() else []
        repair = suggestion(path.name, near, noun=f"config files in {str(folder)!r}")
        _fail("there is no such file", Place("", file), repair)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        _fail(f"the file cannot be read: {reason}", Place("", file), "check its name and permissions")
    if len(raw) > MAX_BYTES:
        _fail(f"the file is larger than {MAX_BYTES} bytes", Place("", file), "a config is a page of text: is this one?")
    return raw


def _compose(text: str, file: str) -> yaml.Node | None:
    if len(text) > MAX_BYTES:
        _fail(f"the config is longer than {MAX_BYTES} characters", Place("", file), "a config is a page of text")
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.YAMLError as error:
        raise ConfigError([syntax_problem(error, text, file)]) from None
    except (ValueError, OverflowError):
        # PyYAML lets Python's own errors through for escapes and versions beyond every range.
        place = Place("", file, *position(text, loader.index if loader else 0))
        _fail("an escape or a number that is out of range", place, "write a character up to \\U0010FFFF")


def _fail(what: str, place: Place, repair: str) -> NoReturn:
    raise ConfigError([Problem(what, place, repair)])


def _noun(node: yaml.Node) -> str:
    return {"scalar": "a single value", "sequence": "a list", "mapping": "a mapping"}[node.id]


class _LimitError(yaml.MarkedYAMLError):
    """The text holds more than a config may."""


class _Loader(yaml.SafeLoader):
    """Composes nodes within bounds, and tells unquoted scalars from all others by their tag."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH + 1:
            raise _LimitError(problem=_too_deep(), problem_mark=self.peek_event().start_mark)
        if self.nodes > MAX_NODES:
            raise _LimitError(problem=_too_many(), problem_mark=self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return _PLAIN if implicit[0] else _TEXT
        return _LIST if kind is yaml.SequenceNode else _MAPPING


class _FullError(Exception):
    """The data is larger than a config may be once its aliases are written out."""


class _Builder:
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
            self._problem(_too_many(), root, path, "write less, or use fewer aliases")
        if self.found:
            raise ConfigError(
                Problem(
                    what, Place(dotted(where, data) if not path else dotted(where), self.file, line, column), repair
                )
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
            self._problem(_too_deep(), node, path)
            return None
        self.active.add(id(node))
        data = self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._list(node, path)
        self.active.remove(id(node))
        return data

    def _list(self, node: yaml.Node, path: Path) -> list[Any]:
        self._check_tag(node, path, _LIST)
        return [self._build(item, (*path, index), None) for index, item in enumerate(node.value)]

    def _mapping(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        return {name: self._build(value, (*path, name), key) for name, (key, value) in self._pairs(node, path).items()}

    def _pairs(self, node: yaml.Node, path: Path) -> dict[str, Pair]:
        """Return key and value nodes by key, with what `<<` merges in; the mapping's own keys win."""
        self._check_tag(node, path, _MAPPING)
        own: dict[str, Pair] = {}
        merges: dict[str, Pair] = {}
        for key, value in node.value:
            self._count()
            is_merge = key.tag == _PLAIN and key.value == _MERGE
            name = _MERGE if is_merge else self._key(key, path)
            if name is None:
                continue
            pairs = merges if is_merge else own
            if name in pairs:
                first = pairs[name][0].start_mark
                what = f"the key {name!r} stands twice, first at line {first.line + 1}, column {first.column + 1}"
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
                self._problem(f"'<<' merges mappings, found {_noun(part)}", part, path, "write '<<: *name'")
            elif id(part) in self.active:
                self._problem("an alias that contains itself", part, path, "write the keys out")
            else:
                self.active.add(id(part))
                merged.update(self._pairs(part, path))
                self.active.remove(id(part))
        return merged

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._problem(f"a key must be text, found {_noun(node)}", node, path, "write the key as text")
            return None
        if node.tag == _PLAIN and read_or_none(node.value) != node.value:
            what = f"a key must be text, found {node.value or 'nothing'}"
            self._problem(what, node, path, f"put it in quotes: '{node.value}'")
            return None
        if node.tag not in (_PLAIN, _TEXT):
            self._bad_tag(node, path)
            return None
        return self._text(node, path)

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        if node.tag == _TEXT:
            return self._text(node, path)
        if node.tag != _PLAIN and node.tag not in _TYPED:
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
        rest = self.text[end : end + 200].split("\n", 1)[0]
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
        self._problem(what, node, path, f"remove it; {_DATA}")


def _shown(tag: str) -> str:
    return tag.replace(_CORE, "!!", 1)


def _too_deep() -> str:
    return f"the config is nested more than {MAX_DEPTH} levels deep"


def _too_many() -> str:
    return f"the config has more than {MAX_NODES} values"
