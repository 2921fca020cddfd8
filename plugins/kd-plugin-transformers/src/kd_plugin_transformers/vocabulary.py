"""Which token has which id: read from a tokenizer's files without loading the tokenizer."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kd_plugin_transformers.folder import folder_of, read_json

_SHOWN = 3


@dataclass(frozen=True)
class Vocabulary:
    """The ids of the tokens of one tokenizer; `source` says whose they are."""

    source: str
    ids: Mapping[str, int]

    @property
    def size(self) -> int:
        """One more than the largest id: as many rows as a model needs."""
        return max(self.ids.values(), default=-1) + 1

    @functools.cached_property
    def digest(self) -> str:
        """A number that two vocabularies share only if every token has the same id in both."""
        text = "\0".join(f"{token}\0{number}" for token, number in sorted(self.ids.items()))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def difference(self, other: Vocabulary) -> str:
        """Return how `other` differs in words; nothing where all ids agree."""
        moved = [token for token, number in self.ids.items() if other.ids.get(token, number) != number]
        own, others = (sorted(a.ids.keys() - b.ids.keys(), key=a.ids.__getitem__) for a, b in _both(self, other))
        parts = []
        if moved:
            shown = ", ".join(f"{token!r} is {self.ids[token]} and {other.ids[token]}" for token in moved[:_SHOWN])
            parts.append(f"{len(moved)} tokens have other ids ({shown})")
        for vocabulary, tokens in ((self, own), (other, others)):
            if tokens:
                shown = ", ".join(map(repr, tokens[:_SHOWN]))
                parts.append(f"{len(tokens)} are only in {vocabulary.source} ({shown})")
        return "; ".join(parts)

    @classmethod
    def declared(cls, tokenizer: str | Mapping[str, Any]) -> Vocabulary | None:
        """Return the vocabulary that `tokenizer:` in a config means; None where only loading would tell."""
        if isinstance(tokenizer, str):
            return cls.in_folder(tokenizer)
        return BYTES if tokenizer.get("type") == "bytes" else None

    @classmethod
    def in_folder(cls, path: str) -> Vocabulary | None:
        """Read the vocabulary in a folder; None where there is none, or none in a form that is read here."""
        ids = _read(path)
        return cls(f"the tokenizer in {path!r}", ids) if ids else None


BYTES = Vocabulary("the tokenizer {type: bytes}", {chr(number): number for number in range(256)})


def _both(one: Vocabulary, other: Vocabulary) -> tuple[tuple[Vocabulary, Vocabulary], ...]:
    return (one, other), (other, one)


def _read(path: str) -> dict[str, int]:
    folder = folder_of(path)
    whole = read_json(folder / "tokenizer.json")
    if whole:
        vocab = whole.get("model", {}).get("vocab", {})
        # A unigram model lists its tokens with their scores; the place in the list is the id.
        ids = dict(vocab) if isinstance(vocab, dict) else {entry[0]: number for number, entry in enumerate(vocab)}
        return ids | {each["content"]: each["id"] for each in whole.get("added_tokens", ())}
    ids = read_json(folder / "vocab.json")
    lines = folder / "vocab.txt"
    if not ids and lines.is_file():
        ids = {line: number for number, line in enumerate(lines.read_text(encoding="utf-8").splitlines())}
    return ids | read_json(folder / "added_tokens.json") if ids else {}
