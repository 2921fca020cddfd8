"""Addresses: every tensor of a run has a name.

    name[:path][@input|@module|@raw][@call][#key]*

Parsing needs no torch, so a config's addresses are checked before anything is built.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from kdcore.errors import AddressError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
RESERVED = "*{}[],"
GRAMMAR = "name[:path][@input|@module|@raw][@call][#key]"

_TAIL = re.compile(r"[@#]")
_CALL = re.compile(r"-?[0-9]{1,9}")


class What(enum.StrEnum):
    """Which side of a module an address looks at."""

    OUTPUT = "output"
    INPUT = "input"
    MODULE = "module"
    RAW = "raw"


@dataclass(frozen=True)
class Address:
    """A parsed address; `str()` gives the text back in its shortest form."""

    name: str
    path: str = ""
    what: What = What.OUTPUT
    call: int | None = None
    keys: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        text = self.name + (f":{self.path}" if self.path else "")
        if self.what is not What.OUTPUT:
            text += f"@{self.what.value}"
        if self.call is not None:
            text += f"@{self.call}"
        return text + "".join(f"#{key}" for key in self.keys)

    @property
    def module(self) -> Address:
        """The same place without its keys."""
        return Address(self.name, self.path, self.what, self.call)

    @property
    def is_batch(self) -> bool:
        """Whether the address names an entry of the batch."""
        return self.name == "batch"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse `text`; raises AddressError with the offending part and the grammar."""
        if not isinstance(text, str):
            raise _error(repr(text), f"an address is text, not {type(text).__name__}")
        match = NAME.match(text)
        if match is None:
            raise _error(text, "it must start with the name of a model, an adapter or 'batch'")
        name, rest = match.group(), text[match.end() :]
        path = ""
        if rest.startswith(":"):
            end = _TAIL.search(rest)
            path, rest = (rest[1 : end.start()], rest[end.start() :]) if end else (rest[1:], "")
            _check_path(text, path)
        rest, keys = _split_keys(text, rest)
        what, call = _parse_marks(text, rest)
        address = cls(name, path, what, call, keys)
        _check_meaning(text, address)
        return address


def _error(text: str, why: str) -> AddressError:
    return AddressError(None, f"{text!r} is not an address: {why}", repair=f"the grammar is {GRAMMAR}")


def _check_path(text: str, path: str) -> None:
    if not path:
        raise _error(text, "nothing stands after ':'")
    bad = sorted({char for char in path if char in RESERVED or char == ":" or char.isspace() or not char.isprintable()})
    if bad:
        raise _error(text, f"{' '.join(map(repr, bad))} cannot stand in a path")
    if any(not part for part in path.split(".")):
        raise _error(text, "a path is names joined by single dots")


def _split_keys(text: str, rest: str) -> tuple[str, tuple[str | int, ...]]:
    marks, *raw = rest.split("#")
    for key in raw:
        if not key or "@" in key or key != key.strip() or not key.isprintable():
            raise _error(text, f"{key!r} is not a key; keys come last, as #name or #0")
    # Only the canonical spelling of a number is an index, so that `str` gives every key back.
    return marks, tuple(int(key) if _CALL.fullmatch(key) and str(int(key)) == key else key for key in raw)


def _parse_marks(text: str, rest: str) -> tuple[What, int | None]:
    if not rest:
        return What.OUTPUT, None
    if not rest.startswith("@"):
        raise _error(text, f"{rest!r} is out of place")
    what, call = What.OUTPUT, None
    for position, mark in enumerate(rest[1:].split("@")):
        if position == 0 and mark in ("input", "module", "raw"):
            what = What(mark)
        elif call is None and _CALL.fullmatch(mark):
            call = int(mark)
        else:
            raise _error(text, f"'@{mark}' is not @input, @module, @raw or a call number such as @0 or @-1")
    return what, call


def _check_meaning(text: str, address: Address) -> None:
    if address.is_batch and not address.path:
        raise _error(text, "'batch' needs the name of an entry, as in batch:target")
    if address.is_batch and (address.what is not What.OUTPUT or address.call is not None):
        raise _error(text, "an entry of the batch has no @ marks")
    if address.what is What.RAW and (address.path or address.call is not None):
        raise _error(text, "@raw is the output of a whole model: it takes no path and no call number")
    if address.what is What.MODULE and (address.call is not None or address.keys):
        raise _error(text, "@module is the module itself: it takes no call number and no keys")
