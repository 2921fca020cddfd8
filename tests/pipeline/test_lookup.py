"""A lookup of numbers that an embedding has not says how many rows it has and which it was asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcore.errors import WiringError
from kdcore.pipeline.diagnosis import reason
from kdcore.pipeline.lookup import failed_lookup

from .toys import objective, one_stage

CE = "{ce: {type: ce, inputs: {input: student}}}"


class Reader(nn.Module):
    def __init__(self, words: int, places: int = 16) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"words": nn.Embedding(words, 4), "places": nn.Embedding(places, 4)})
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        out: Tensor = self.head((self.body["words"](tokens) + self.body["places"](places)).mean(1))
        return out


def wired(model: nn.Module, tokens: Tensor) -> Any:
    batch = {"input": tokens, "target": torch.zeros(len(tokens), dtype=torch.int64), "index": torch.arange(len(tokens))}
    return objective(one_stage(CE), {"teacher": nn.Flatten(), "student": model}, batch=batch)


def test_ids_beyond_the_vocabulary_name_its_size_and_the_largest() -> None:
    tokens = torch.tensor([[3, 278], [198, 5]])
    with pytest.raises(
        WiringError,
        match=r"'student' \(Reader\) failed .*: an Embedding of 200 rows, which are 0 to 199, was asked for rows 3 to 278\n"
        r" +student:body.words is looked up with batch:input: give the model a vocab_size of at least 279 .*tokenizer",
    ):
        wired(Reader(200), tokens)
    wired(Reader(279), tokens)


def test_positions_beyond_the_longest_are_no_question_of_the_vocabulary() -> None:
    with pytest.raises(
        WiringError,
        match=r"an Embedding of 16 rows, .* rows 0 to 19\n +student:body.places is looked up with numbers of the model's "
        r"own, such as positions: give it at least 20 rows, or shorten the samples",
    ):
        wired(Reader(10), torch.zeros(2, 20, dtype=torch.int64))


def test_labels_that_mark_places_to_leave_out_are_told_from_ids() -> None:
    with pytest.raises(WiringError, match=r"rows -100 to 3\n +batch:input holds numbers below 0, which mark places to"):
        wired(Reader(10), torch.tensor([[-100, 3]]))


def test_other_index_errors_say_what_they_said() -> None:
    with pytest.raises(IndexError) as caught:
        torch.ones(2)[3]
    assert failed_lookup(caught.value) is None
    assert reason(caught.value).startswith("IndexError: index 3 is out of bounds")

    class Odd(nn.Embedding):
        def forward(self, input: Tensor) -> Tensor:
            return torch.ones(2)[3]

    with pytest.raises(IndexError) as caught:
        Odd(5, 2)(torch.tensor([1]))
    assert failed_lookup(caught.value) is None
