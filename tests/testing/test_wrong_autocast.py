"""The check `autocast` under float16: a product of matrices overflows where nobody asks for float32."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Generator, Tensor, nn

from kdcore.component import Input, Kind
from kdcore.plugins import Registry
from kdcore.precision import without_autocast
from kdcore.testing import Conformance, Example
from kdcore.testing.result import Result


class Similarities(nn.Module):
    """The difference of normalised Gram matrices, which autocast makes of half-precision products."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (self.similarities(student) - self.similarities(teacher.detach())).square().mean()

    def similarities(self, features: Tensor) -> Tensor:
        gram = features.float() @ features.float().T
        return gram / torch.linalg.vector_norm(gram, dim=1, keepdim=True).clamp_min(1e-6)


class Exact(Similarities):
    @without_autocast
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return super().forward(student, teacher)


class Probabilities(nn.Module):
    """Refuses numbers as large as the check tries."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if student.detach().abs().max() > 100:
            raise ValueError("too large")
        return (student - teacher.detach()).square().mean()


def features(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return features of both sides."""
    return {name: torch.randn(batch, 16, generator=generator) for name in ("student", "teacher")}


def checked(loss: type[nn.Module]) -> Result:
    inputs = (Input("student", default="student"), Input("teacher", default="teacher"))
    schema = {"type": "object", "additionalProperties": False, "properties": {}}
    component = Registry().register(Kind.LOSS, "test", loss, schema=schema, inputs=inputs, summary="a test")
    conformance = Conformance(component, [Example(inputs=features)])
    (trial,) = (each for each in conformance.trials() if each[0].name == "autocast")
    return conformance.result(*trial)


def test_a_product_that_float16_cannot_hold_is_found() -> None:
    result = checked(Similarities)
    assert result.failed
    assert re.search(
        r"under float16 autocast it returned nan, in float32 0\.\d+, with its inputs multiplied by 300: autocast "
        r"multiplies matrices in half precision\. Put kdcore\.precision\.without_autocast on forward",
        result.message,
    ), result.message


@pytest.mark.parametrize("loss", [Exact, Probabilities])
def test_what_is_computed_in_float32_or_refuses_such_numbers_passes(loss: type[nn.Module]) -> None:
    result = checked(loss)
    assert not result.failed, result.message
