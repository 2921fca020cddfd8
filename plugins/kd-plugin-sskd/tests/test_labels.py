"""Labels that are no class indices."""

from __future__ import annotations

import pytest
import torch
from kd_plugin_sskd.loss import SSKDLoss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_labels_are_whole_numbers(dtype: torch.dtype) -> None:
    rows = torch.randn(8, 5)
    with pytest.raises(ValueError, match=rf"target has dtype {dtype}; class indices are needed"):
        SSKDLoss()(rows, rows, rows, rows, torch.ones(2).to(dtype))
