"""Finds models that read the same ids as different tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kd_plugin_transformers.vocabulary import Vocabulary
from kdcore.errors import WiringError

_READ_AS = "_kd_read_as"


class TokenReader:
    """A hook before a model's forward that marks the ids it reads, and refuses those marked by another tokenizer.

    Teacher and student are given one tensor, so the first batch that both read shows whether they take its
    ids for the same tokens; logits of two vocabularies of one size would otherwise be compared in silence.

    Raises:
        WiringError: another model read the same tensor as ids of another tokenizer.
    """

    def __init__(self, vocabulary: Vocabulary | None) -> None:
        self.vocabulary = vocabulary

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Look at the ids that the model is called with."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        # A compiled graph sees tensors that are nobody's; the first batch was read before compiling.
        if self.vocabulary is None or not isinstance(ids, Tensor) or torch.compiler.is_compiling():
            return
        other = getattr(ids, _READ_AS, None)
        if other is None:
            setattr(ids, _READ_AS, self.vocabulary)
        elif other.digest != self.vocabulary.digest:
            raise WiringError(
                f"two models read the same ids as different tokens: {self.vocabulary.source} and {other.source} "
                f"do not agree: {self.vocabulary.difference(other)}",
                repair="choose models of one tokenizer, or give each model ids of its own by its inputs:",
            )

    def __deepcopy__(self, memo: Any) -> TokenReader:
        return TokenReader(None)  # a copy leaves the pipeline: it stands alone, and need not carry a vocabulary
