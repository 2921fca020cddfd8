"""How long a vector of equal numbers stays once its mean is subtracted."""

from __future__ import annotations

import pytest
import torch

from kdcore.rounding import length_left


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 10, 24, 31, 96, 127, 333, 1000, 2047, 10_000])
@pytest.mark.parametrize("dim", [0, 1])
def test_equal_numbers_keep_no_more(dtype: torch.dtype, count: int, dim: int) -> None:
    values = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=dtype).mul(20).sub(10).exp()
    equal = (values.expand(count, -1) if dim == 0 else values.unsqueeze(1).expand(-1, count)).contiguous()
    mean = equal.mean(dim, keepdim=True)
    left = torch.linalg.vector_norm(equal - mean, dim=dim)
    assert (left <= length_left(count, dtype) * mean.squeeze(dim)).all()


def test_it_is_a_small_part_of_what_was_there() -> None:
    assert length_left(1000, torch.float32) < 1e-4 * 1000**0.5
    assert length_left(1, torch.float64) == torch.finfo(torch.float64).eps
