"""YAML text to plain data with positions; every mistake of a file is reported at once."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Any, NoReturn

import yaml

from kdcore.config.builder import (
    LIST,
    MAPPING,
    MAX_DEPTH,
    MAX_NODES,
    PLAIN,
    TEXT,
    TOO_DEEP,
    TOO_MANY,
    Builder,
    is_null,
    kind_of,
)
from kdcore.config.source import Path, Source, Spot
from kdcore.config.syntax import position, syntax_problem
from kdcore.errors import ConfigError, Place, Problem, suggestion

MAX_BYTES = 1 << 20


def read_config(path: str | FilePath) -> Source:
    """Read a config file; raises ConfigError with every problem found."""
    file = str(path)
    raw = _bytes(file)
    try:
        text = raw.decode("utf-8")
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
    if root is None or is_null(root):
        _fail("the config is empty", top, "a config is a mapping that starts with 'version: 1'")
    if not isinstance(root, yaml.MappingNode):
        _fail(f"the config is {kind_of(root)}, not a mapping", top, "write 'key: value' lines at the top level")
    builder = Builder(text, file)
    return Source(file, text, builder.read(root, ()), builder.spots)


def read_value(text: str, file: str, path: Path) -> tuple[Any, dict[Path, Spot]]:
    """Read one value that stands at `path`, by the rules of a file; no text at all is null."""
    root = _compose(text, file)
    builder = Builder(text, file)
    if root is None:
        return None, {path: Spot(file)}
    return builder.read(root, path), builder.spots


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
    except _LimitError as error:
        _fail(error.what, Place("", file, error.mark.line + 1, error.mark.column + 1), "write less")
    except yaml.YAMLError as error:
        raise ConfigError([syntax_problem(error, text, file)]) from None
    except (ValueError, OverflowError):
        # PyYAML lets Python's own errors through for escapes and versions beyond every range.
        place = Place("", file, *position(text, loader.index if loader else 0))
        _fail("an escape or a number that is out of range", place, "write a character up to \\U0010FFFF")


def _fail(what: str, place: Place, repair: str) -> NoReturn:
    raise ConfigError([Problem(what, place, repair)])


class _LimitError(Exception):
    """The text holds more than a config may."""

    def __init__(self, what: str, mark: yaml.Mark) -> None:
        super().__init__(what)
        self.what = what
        self.mark = mark


class _Loader(yaml.SafeLoader):
    """Composes nodes within bounds, and tells unquoted scalars from all others by their tag."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH + 1 or self.nodes > MAX_NODES:
            what = TOO_MANY if self.nodes > MAX_NODES else TOO_DEEP
            raise _LimitError(what, self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return PLAIN if implicit[0] else TEXT
        return LIST if kind is yaml.SequenceNode else MAPPING
