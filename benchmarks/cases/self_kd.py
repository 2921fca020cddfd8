"""Cases of kd-plugin-self-kd."""

from __future__ import annotations

from collections.abc import Callable

import torch
from losses import Case, Inputs, textbook_forms
from torch import Tensor

from kdcore import create


def textbook(divergence: str) -> Callable[..., Tensor]:
    """Average the textbook form over the distributions."""
    form = textbook_forms("kd-plugin-self-kd").self_kd
    return lambda student, teacher: form(student, teacher, divergence).mean()


def exits(*shape: int) -> Inputs:
    """Return a shallow and a deeper exit."""
    return {"student": torch.randn(shape, requires_grad=True), "teacher": torch.randn(shape)}


CASES = [
    Case(
        f"self_kd {divergence} B{'x'.join(map(str, shape))}",
        lambda divergence=divergence: create("loss", "self_kd", divergence=divergence),
        lambda divergence=divergence: textbook(divergence),
        lambda shape=shape: exits(*shape),
        rounds=31,
    )
    for divergence, shape in (
        ("cross_entropy", (128, 100)),
        ("cross_entropy", (256, 1000)),
        ("kl", (256, 1000)),
        ("l2", (64, 512, 7, 7)),
    )
]
