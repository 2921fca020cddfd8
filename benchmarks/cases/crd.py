"""Cases of kd-plugin-crd."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from losses import Case, Inputs, textbook_forms
from torch import Tensor

from kdcore import create

DIM = 128


def inputs(samples: int, negatives: int, batch: int = 64) -> Inputs:
    """Return embeddings of length one, and candidates as a data set would draw them."""
    student, teacher = (F.normalize(torch.randn(batch, DIM)).requires_grad_() for _ in range(2))
    drawn = torch.randint(samples, (batch, negatives + 1))
    return {"student": student, "teacher": teacher, "index": drawn[:, 0].contiguous(), "contrast_index": drawn}


def textbook(samples: int) -> Callable[..., Tensor]:
    """Return the textbook form with banks of its own."""
    bound = (3 / DIM) ** 0.5
    banks = (torch.empty(samples, DIM).uniform_(-bound, bound) for _ in range(2))
    return textbook_forms("kd-plugin-crd").TextbookCRD(*banks)  # type: ignore[no-any-return]


CASES = [
    Case(
        f"crd N{samples // 1000}k K{negatives} B64",
        lambda samples=samples, negatives=negatives: create(
            "loss", "crd", num_negatives=negatives, num_samples=samples, dim=DIM
        ),
        lambda samples=samples: textbook(samples),
        lambda samples=samples, negatives=negatives: inputs(samples, negatives),
        rounds=3,
        reached=reached,
    )
    for samples, negatives, reached in ((50_000, 16384, 61), (1_281_167, 16384, None), (50_000, 1024, None))
]
