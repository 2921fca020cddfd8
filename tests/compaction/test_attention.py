"""The module that takes the place of torch's multi-head attention computes the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcore.compaction.attention import CompactMultiheadAttention
from tests.compaction.nets import lively

HEADS, LENGTH, OTHER = 4, 5, 3
CAUSAL = nn.Transformer.generate_square_subsequent_mask(LENGTH)


def both(call: Any, **options: Any) -> tuple[tuple[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]:
    """Call torch's module and ours, with the same parameters."""
    original = lively(nn.MultiheadAttention(16, HEADS, **options))
    ours = CompactMultiheadAttention(copy.deepcopy(original), HEADS)
    with torch.no_grad():
        return call(original), call(ours)


def sequence(length: int, width: int = 16) -> Tensor:
    return torch.randn(2, length, width, generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize(
    "masks",
    [
        {},
        {"attn_mask": CAUSAL},
        {"attn_mask": CAUSAL, "is_causal": True},
        {"attn_mask": CAUSAL < 0},
        {"attn_mask": CAUSAL.repeat(2 * HEADS, 1, 1)},
        {"key_padding_mask": torch.tensor([[False] * LENGTH, [False, False, True, True, True]])},
        {"key_padding_mask": torch.tensor([[0.0] * LENGTH, [0, 0, 0, 0, -1e9]]), "attn_mask": CAUSAL},
    ],
)
def test_masks(masks: dict[str, Any], need_weights: bool) -> None:
    x = sequence(LENGTH)
    expected, found = both(lambda module: module(x, x, x, need_weights=need_weights, **masks), batch_first=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"bias": False}, {"kdim": 6, "vdim": 7}])
def test_layouts_and_widths(options: dict[str, Any]) -> None:
    q, k, v = sequence(OTHER), sequence(LENGTH, options.get("kdim", 16)), sequence(LENGTH, options.get("vdim", 16))
    if not options.get("batch_first"):
        q, k, v = (each.transpose(0, 1) for each in (q, k, v))
    expected, found = both(lambda module: module(q, k, v, average_attn_weights=False), **options)
    torch.testing.assert_close(found, expected)


def test_one_sequence_without_batch() -> None:
    x = sequence(LENGTH)[0]
    expected, found = both(lambda module: module(x, x, x))
    torch.testing.assert_close(found, expected)
