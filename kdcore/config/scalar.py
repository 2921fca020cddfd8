"""What an unquoted YAML scalar means.

true, false and null (in YAML's three spellings) and decimal numbers are values; everything else is
text: dates, 1:30, yes and no, 1_000 and 0x10 mean different things to different readers of YAML.
"""

from __future__ import annotations

import math
import re

Scalar = str | int | float | bool | None

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_PADDED = re.compile(r"[-+]?0[0-9]")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MAX_DIGITS = 100


class ScalarError(ValueError):
    """A scalar that means nothing, or too many things."""

    def __init__(self, what: str, repair: str) -> None:
        super().__init__(what)
        self.what = what
        self.repair = repair


def read_scalar(text: str) -> Scalar:
    """Return what the unquoted scalar `text` means; raises ScalarError where nobody can tell."""
    if text in _WORDS:
        return _WORDS[text]
    if _NOT_FINITE.fullmatch(text):
        raise ScalarError(f"{text} is not a finite number", "leave the key out, or write a number")
    if not _FLOAT.fullmatch(text):
        return text
    if len(text) > _MAX_DIGITS:
        raise ScalarError(f"a number of {len(text)} characters is too long", "put it in quotes if it is text")
    if _PADDED.match(text):
        sign, digits = ("-" if text[0] == "-" else ""), text.lstrip("+-").lstrip("0")
        number = sign + (digits if digits[:1].isdecimal() else f"0{digits}")
        raise ScalarError(
            f"{text} starts with a zero: octal to some, decimal to others", f"write {number}, or '{text}' if it is text"
        )
    if _INTEGER.fullmatch(text):
        return int(text)
    number_value = float(text)
    if not math.isfinite(number_value):
        raise ScalarError(f"{text} is too large for a number", "put it in quotes if it is text")
    return number_value
