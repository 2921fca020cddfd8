"""`${env:NAME}` and `${env:NAME:-default}` in the texts of a config."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kdcore.config.scalar import ScalarError, read_scalar
from kdcore.config.source import Path, Source
from kdcore.errors import ConfigError, Problem, nearest

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<body>[^{}]*)\}|\$\{")
_VARIABLE = re.compile(r"env:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)
_FORMS = "write ${env:NAME} or ${env:NAME:-default}, or $${ for a literal ${"


def expand_environment(source: Source, environ: Mapping[str, str] = os.environ) -> Source:
    """Return `source` with environment variables put in, where its texts name them.

    A text that is nothing but one reference is read again as an unquoted scalar, so numbers stay
    numbers; anything else stays text, and no variable can add keys or items. As in a shell, the
    default stands for a variable that is unset or empty; `$${` is a literal `${`. Apply it once.
    Raises ConfigError with every reference that cannot be resolved.
    """
    expansion = _Expansion(source, environ)
    data = expansion.value(source.data, ())
    if expansion.problems:
        raise ConfigError(expansion.problems)
    return replace(source, data=data)


class _Expansion:
    def __init__(self, source: Source, environ: Mapping[str, str]) -> None:
        self.source = source
        self.environ = environ
        self.problems: list[Problem] = []

    def value(self, node: Any, path: Path) -> Any:
        if isinstance(node, dict):
            return {key: self.value(item, (*path, key)) for key, item in node.items()}
        if isinstance(node, list):
            return [self.value(item, (*path, index)) for index, item in enumerate(node)]
        return self._text(node, path) if isinstance(node, str) else node

    def _text(self, text: str, path: Path) -> Any:
        whole = _REFERENCE.fullmatch(text)
        if whole is None or whole["body"] is None:
            return _REFERENCE.sub(lambda match: self._reference(match, path), text)
        found = self._reference(whole, path)
        try:
            value = read_scalar(found.strip())
        except ScalarError as error:
            self._problem(f"{text}: {error.what}", path, error.repair)
            return None
        return found if isinstance(value, str) else value

    def _reference(self, match: re.Match[str], path: Path) -> str:
        if match.group() == "$${":
            return "${"
        if match["body"] is None:
            self._problem("a '${' that is never closed", path, f"close it with '}}'; {_FORMS}")
            return ""
        variable = _VARIABLE.fullmatch(match["body"])
        if variable is None:
            self._problem(f"{match.group()} is not understood", path, _FORMS)
            return ""
        name, default = variable["name"], variable["default"]
        value = self.environ.get(name)
        if default is not None:
            value = value or default
        if value is None:
            near = nearest(name, self.environ, limit=1)
            hint = f"did you mean {near[0]}? else " if near else ""
            self._problem(
                f"the environment variable {name} is not set",
                path,
                f"{hint}set it, or give a default: ${{env:{name}:-...}}",
            )
        elif not _is_text(value):
            self._problem(f"the environment variable {name} is not UTF-8 text", path, "set it to text")
            value = None
        return value or ""

    def _problem(self, what: str, path: Path, repair: str) -> None:
        self.problems.append(Problem(what, self.source.place(path), repair))


def _is_text(value: str) -> bool:
    # Bytes that are no UTF-8 arrive from the system as lone surrogates.
    return not any("\ud800" <= character <= "\udfff" for character in value)
