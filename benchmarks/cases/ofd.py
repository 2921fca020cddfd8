"""Cases of kd-plugin-ofd."""

from __future__ import annotations

import torch
from losses import Case, Inputs, textbook_forms
from torch import nn

from kdcore import create


def inputs(*shape: int) -> Inputs:
    """Return features of both sides and a batch norm."""
    norm = nn.BatchNorm2d(shape[1])
    nn.init.normal_(norm.bias)
    return {"student": torch.randn(shape, requires_grad=True), "teacher": torch.randn(shape), "norm": norm}


CASES = [
    Case(
        f"ofd B64 {'x'.join(map(str, shape))}",
        lambda: create("loss", "ofd"),
        lambda: textbook_forms("kd-plugin-ofd").ofd,
        lambda shape=shape: inputs(64, *shape),
    )
    for shape in ((512, 7, 7), (64, 28, 28))
]
