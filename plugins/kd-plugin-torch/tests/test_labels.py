"""Labels that name no class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kd_plugin_torch.class_loss import CrossEntropyLoss, NLLLoss

FORMS: list[dict[str, Any]] = [
    {},
    {"reduction": "tokens"},
    {"reduction": "sum"},
    {"weight": [1.0, 2.0, 1.0, 1.0, 1.0]},
    {"ignore_index": -1},
]
SMOOTH: list[dict[str, Any]] = [{"label_smoothing": 0.1}, {"label_smoothing": 0.1, "reduction": "sum"}]
CASES = [(CrossEntropyLoss, each) for each in [*FORMS, *SMOOTH]] + [(NLLLoss, each) for each in FORMS]


def logits() -> torch.Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("label", [5, 9, -2])
@pytest.mark.parametrize(("loss", "params"), CASES)
def test_a_label_beyond_the_classes_is_named(loss: type[NLLLoss], params: dict[str, Any], label: int) -> None:
    ignored = params.get("ignore_index", -100)
    pattern = rf"target holds {label}; with 5 classes, labels are 0 to 4 \(ignore_index, {ignored}, is left out\)"
    with pytest.raises(ValueError, match=pattern):
        loss(**params)(logits(), torch.tensor([1, ignored, label, 3]))


@pytest.mark.parametrize("shape", [(2, 7), (2, 3, 3)])
def test_along_another_dimension_too(shape: tuple[int, ...]) -> None:
    target = torch.full(shape, 6)
    with pytest.raises(ValueError, match="target holds 6; with 5 classes, labels are 0 to 4"):
        CrossEntropyLoss(class_dim=1)(torch.randn(shape[0], 5, *shape[1:]), target)


@pytest.mark.parametrize(("loss", "params"), CASES)
def test_the_ignored_label_is_no_mistake(loss: type[NLLLoss], params: dict[str, Any]) -> None:
    value = loss(**params)(logits(), torch.tensor([1, params.get("ignore_index", -100), 4, 3]))
    assert (value[0] if isinstance(value, tuple) else value).isfinite()


def test_another_index_error_stays_what_it_is() -> None:
    error = IndexError("something else")
    assert CrossEntropyLoss()._out_of_range(torch.tensor([1, -100]), 5, error) is error
