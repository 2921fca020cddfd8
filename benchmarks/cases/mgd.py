"""Cases of kd-plugin-mgd: its arithmetic is that of three convolutions, so the aim is to cost no more."""

from __future__ import annotations

from collections.abc import Callable

import torch
from losses import Case, textbook_forms
from torch import Tensor

from kdcore import create


def textbook(student: int, teacher: int) -> Callable[..., Tensor]:
    """Return the textbook form, with the weights of a loss and a mask for each step."""
    weights = dict(create("loss", "mgd", student_channels=student, teacher_channels=teacher).named_parameters())
    form = textbook_forms("kd-plugin-mgd").mgd

    def step(student: Tensor, teacher: Tensor) -> Tensor:
        mask = torch.where(torch.rand(len(student), 1, *student.shape[2:]) > 0.35, 0.0, 1.0)
        return form(student, teacher, weights, mask)  # type: ignore[no-any-return]

    return step


CASES = [
    Case(
        f"mgd B{batch} {student}-{teacher} {size}x{size}",
        lambda student=student, teacher=teacher: create(
            "loss", "mgd", student_channels=student, teacher_channels=teacher
        ),
        lambda student=student, teacher=teacher: textbook(student, teacher),
        lambda batch=batch, student=student, teacher=teacher, size=size: {
            "student": torch.randn(batch, student, size, size, requires_grad=True),
            "teacher": torch.randn(batch, teacher, size, size),
        },
        rounds=5,
    )
    for batch, student, teacher, size in ((16, 128, 256, 7), (4, 64, 64, 28))
]
