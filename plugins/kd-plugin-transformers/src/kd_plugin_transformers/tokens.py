"""Tokenizers for data sets: a local folder's, bytes, or byte pairs learnt from the text at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from kd_plugin_transformers.folder import folder_of, tokenizer_problem
from kdcore.errors import DataError

Encode = Callable[[Sequence[str]], list[list[int]]]

# Every split learns the same byte pairs, from the same text: seconds each time, so once for all.
_known: dict[tuple[bytes, int], Tokenizer] = {}


@dataclass(frozen=True)
class Tokens:
    """What a data set needs of a tokenizer.

    Arguments:
        size: one more than the largest id.
        pad: the id that fills places without text; masks and labels say which these are.
        encode: text to ids, as in the middle of a text.
        encode_whole: text to ids with what the tokenizer puts before and after a whole text.
    """

    size: int
    pad: int
    encode: Encode
    encode_whole: Encode

    @classmethod
    def of(cls, tokenizer: str | Mapping[str, Any], text: Callable[[], list[str]]) -> Tokens:
        """Return the tokenizer that a config names; `text` returns what byte pairs are learnt from.

        Raises:
            DataError: there is no tokenizer in the folder, or none that can be loaded.
        """
        if isinstance(tokenizer, str):
            return _in_folder(tokenizer)
        if tokenizer["type"] == "bytes":
            return cls(256, 0, _bytes, _bytes)
        return _learnt(text(), tokenizer["vocab_size"])


def _bytes(texts: Sequence[str]) -> list[list[int]]:
    return [list(text.encode()) for text in texts]


def _learnt(texts: list[str], size: int) -> Tokens:
    text = hashlib.sha256()
    for each in texts:
        text.update(f"{len(each)}\0{each}".encode())
    key = (text.digest(), size)
    tokenizer = _known.get(key) or _known.setdefault(key, _learn(texts, size))

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [each.ids for each in tokenizer.encode_batch_fast(list(texts))]

    return Tokens(tokenizer.get_vocab_size(), 0, encode, encode)


def _learn(texts: list[str], size: int) -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    # Sorted: the alphabet comes in another order each time, and ids would follow it.
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    return tokenizer


def _in_folder(path: str) -> Tokens:
    problem = tokenizer_problem(path)
    if problem is not None:
        raise DataError(problem.what, repair=problem.repair)
    # Only here, for it takes seconds and the other tokenizers do without.
    from transformers import AutoTokenizer

    from kd_plugin_transformers.quiet import quietly

    try:
        with quietly():
            tokenizer = AutoTokenizer.from_pretrained(folder_of(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # files that are no tokenizer make the reader fail in any way
        raise DataError(
            f"the tokenizer in {path!r} cannot be loaded: {type(error).__name__}: {str(error).splitlines()[0]}",
            repair="save it again with the tokenizer's save_pretrained",
        ) from error
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def encode(texts: Sequence[str], special: bool = False) -> list[list[int]]:
        with quietly():  # it warns of texts that are longer than its model, which are cut later
            return tokenizer(list(texts), add_special_tokens=special)["input_ids"]  # type: ignore[no-any-return]

    size = max(tokenizer.get_vocab().values()) + 1
    return Tokens(size, pad if pad is not None else 0, encode, lambda texts: encode(texts, special=True))
