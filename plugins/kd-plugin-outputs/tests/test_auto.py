import collections
import dataclasses
import types

import pytest
import torch
from kd_plugin_outputs.auto import AutoExtractor

A, B, C = torch.zeros(2, 3), torch.ones(2, 3), torch.full((2,), 2.0)
LOSS = torch.tensor(0.5)
Pair = collections.namedtuple("Pair", ["first", "second"])
Inception = collections.namedtuple("Inception", ["aux_logits", "logits"])


class ModelOutput(collections.OrderedDict):
    """Keys that are attributes too, as some libraries return them."""

    def __getattr__(self, name):
        return self.get(name)


@dataclasses.dataclass
class Answer:
    loss: torch.Tensor | None
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...]


class Lazy:
    @property
    def logits(self):
        return A


class Slotted:
    __slots__ = ("aux", "logits")

    def __init__(self):
        self.logits, self.aux = A, B


def read(output):
    return AutoExtractor()(output, {})


@pytest.mark.parametrize(
    ("output", "named"),
    [
        (A, {}),
        ({"logits": A, "aux": B}, {"aux": B}),
        ({"aux": B, "out": A}, {"aux": B}),
        ({"out": B, "logits": A}, {"out": B}),
        ({1: B, "logits": A}, {"1": B}),
        (ModelOutput(loss=LOSS, logits=A, hidden_states=(B, C)), {"loss": LOSS, "hidden_states": (B, C)}),
        (Answer(None, A, (B, C)), {"hidden": (B, C)}),
        (types.SimpleNamespace(logits=A, aux=B, _cache=C), {"aux": B}),
        (Lazy(), {}),
        (Slotted(), {"aux": B}),
        ((A, B), {"1": B}),
        ([A, None, {"x": B}], {"2": {"x": B}}),
        (({"x": B}, A), {"0": {"x": B}}),
        ((LOSS, A, (B, C)), {"0": LOSS, "2": (B, C)}),
        (Pair(A, B), {"second": B}),
        (Inception(B, A), {"aux_logits": B}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_meant_and_what_is_named(output, named):
    extracted = read(output)
    assert extracted.value is A
    assert list(extracted.named) == list(named)
    assert all(extracted.named[name] is value or extracted.named[name] == value for name, value in named.items())
    assert extracted.losses == {}


def test_nested_values_are_not_copied():
    states = (B, C)
    assert read({"logits": A, "hidden_states": states}).named["hidden_states"] is states


def test_a_tuple_of_scalars_has_a_first_tensor():
    assert read((LOSS, torch.tensor(1.0))).value is LOSS


def test_the_output_itself_is_left_alone():
    output = {"logits": A, "aux": B}
    read(output)
    assert list(output) == ["logits", "aux"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            {"features": A, "n": 3},
            r"a dict with features \(tensor \[2, 3\]\), n \(int\): .*params: \{key: features\}\}",
        ),
        (ModelOutput(last_hidden_state=A), r"a ModelOutput with last_hidden_state .*\{key: last_hidden_state\}"),
        ({"logits": (A, B)}, r"a dict with logits \(tuple of 2\)"),
        ({"loss_box": LOSS}, "if these are losses, write output: model_losses"),
        ((), "an empty tuple"),
        ({}, "an empty dict"),
        (([A], {"x": A}), r"a tuple with 0 \(list of 1\), 1 \(dict of 1\).*\{index: 0\}"),
        (None, "the output is a NoneType"),
        (3.0, "the output is a float"),
        (types.SimpleNamespace(features=A), r"\{key: features\}"),
    ],
)
def test_what_has_no_meaning_by_custom(output, message):
    with pytest.raises(ValueError, match=message):
        read(output)
