import collections
import types

import pytest
import torch
from kd_plugin_outputs.item import ItemExtractor

A, B = torch.zeros(2, 3), torch.ones(2, 3)
Pair = collections.namedtuple("Pair", ["first", "second"])


class Lazy:
    @property
    def features(self):
        return A


@pytest.mark.parametrize(
    ("params", "output", "named"),
    [
        ({"key": "features"}, {"logits": B, "features": A}, ["logits"]),
        ({"key": "3"}, {3: A, 4: B}, ["4"]),
        ({"key": "features"}, types.SimpleNamespace(features=A, other=B), ["other"]),
        ({"key": "features"}, Lazy(), []),
        ({"key": "first"}, Pair(A, B), ["second"]),
        ({"index": 0}, Pair(A, B), ["second"]),
        ({"index": 1}, (B, A, None), ["0"]),
        ({"index": -1}, [B, B, A], ["0", "1"]),
    ],
)
def test_one_entry_by_name_or_place(params, output, named):
    extracted = ItemExtractor(**params)(output, {})
    assert extracted.value is A
    assert list(extracted.named) == named


@pytest.mark.parametrize(
    ("params", "output", "message"),
    [
        (
            {"key": "logit"},
            {"logits": A},
            r"with logits \(tensor \[2, 3\]\); it has no key 'logit': did you mean 'logits'",
        ),
        ({"key": "logits"}, A, "the output is a Tensor; it has no key 'logits'"),
        ({"index": 2}, (A, B), r"a tuple with 0 .*, 1 .*; it has no index 2"),
        ({"index": -3}, (A, B), "it has no index -3"),
        ({"index": 0}, {"logits": A}, "it has no index 0"),
        ({"index": 0}, A, "the output is a Tensor; it has no index 0"),
        ({"index": 1}, (A, None), "it has no index 1"),
        ({"key": "states"}, {"states": (A, B)}, "entry states of the output is a tuple, not a tensor.*<model>#states#"),
    ],
)
def test_entries_that_do_not_exist_or_are_no_tensor(params, output, message):
    with pytest.raises(ValueError, match=message):
        ItemExtractor(**params)(output, {})


@pytest.mark.parametrize(
    ("params", "message"), [({}, "found neither"), ({"key": "a", "index": 0}, "found key 'a' and index 0")]
)
def test_exactly_one_of_key_and_index(params, message):
    with pytest.raises(ValueError, match=message):
        ItemExtractor(**params)
