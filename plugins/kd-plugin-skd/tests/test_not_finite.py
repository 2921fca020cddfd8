"""Inputs that are not finite."""

from __future__ import annotations

import math

import pytest
import torch
from kd_plugin_skd.loss import SKDDirectionLoss


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_the_sides_are_named_and_no_decomposition(side: str, value: float) -> None:
    inputs = {name: torch.randn(4, 5) for name in ("student", "teacher")}
    inputs[side][1, 2] = value
    with pytest.raises(ValueError, match="student or teacher holds NaN or infinity; skd_direction has no distance"):
        SKDDirectionLoss()(**inputs)
