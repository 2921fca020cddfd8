"""Batches in blocks of samples."""

from __future__ import annotations

import pytest
import torch

from kdcore.blocks import BLOCK_BYTES, sample_blocks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [1, 2, 7, 64])
@pytest.mark.parametrize("numbers", [1, 50_000, 10**7])
def test_blocks_part_the_batch_and_fit(samples: int, numbers: int, dtype: torch.dtype) -> None:
    batch = torch.arange(samples, dtype=dtype)
    parts = [batch[block] for block in sample_blocks(batch, numbers)]
    assert torch.equal(torch.cat(parts), batch)
    assert all(len(part) == 1 or len(part) * numbers * batch.element_size() <= BLOCK_BYTES for part in parts)


def test_as_few_blocks_as_fit() -> None:
    half = BLOCK_BYTES // 8
    assert sample_blocks(torch.zeros(5), half) == [slice(0, 2), slice(2, 4), slice(4, 6)]


def test_an_accelerator_gets_the_whole_batch() -> None:
    assert sample_blocks(torch.zeros(64, device="meta"), 10**7) == [slice(0, 64)]


def test_no_samples_are_one_empty_block() -> None:
    assert sample_blocks(torch.zeros(0, 3), 3) == [slice(0, 1)]
