"""Cases of kd-plugin-norm-penalty."""

from __future__ import annotations

from functools import partial

import torch
from losses import Case, textbook_forms

from kdcore import create

CASES = [
    Case(
        f"norm_penalty p{p} 64x{channels}x{side}x{side}",
        lambda p=p: create("loss", "norm_penalty", p=p),
        lambda p=p: partial(textbook_forms("kd-plugin-norm-penalty").norm_penalty, p=p),
        lambda channels=channels, side=side: {"input": torch.randn(64, channels, side, side, requires_grad=True)},
        rounds=31,
    )
    for p, channels, side in ((1, 12, 28), (2, 12, 28), (1, 256, 14))
]
