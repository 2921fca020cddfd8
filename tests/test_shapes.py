"""The shape checks and what they tell the user."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from kdcore.shapes import (
    FewSamplesError,
    check_not_empty,
    check_rank,
    check_same_batch,
    check_same_shape,
    check_several,
)


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


def test_equal_shapes_pass() -> None:
    check_same_shape(student=zeros(2, 3), teacher=zeros(2, 3), mask=zeros(2, 3))
    check_same_shape(student=zeros(2))


def test_other_classes_are_recognised() -> None:
    with pytest.raises(
        ValueError, match=r"student has shape \(2, 3\) but teacher has \(2, 4\); .*need the same classes or vocabulary"
    ):
        check_same_shape(student=zeros(2, 3), teacher=zeros(2, 4))


def test_other_differences_name_the_culprit_and_a_remedy() -> None:
    with pytest.raises(
        ValueError, match=r"input has shape \(2, 3\) but var has \(2,\); .*an adapter can change a shape"
    ):
        check_same_shape(input=zeros(2, 3), target=zeros(2, 3), var=zeros(2))


def test_what_would_broadcast_is_refused() -> None:
    with pytest.raises(ValueError, match="must be equal"):
        check_same_shape(input=zeros(4, 1), target=zeros(4, 4))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4)])
def test_ranks_within_the_bounds_pass(shape: tuple[int, ...]) -> None:
    check_rank(2, 3, student=zeros(*shape), teacher=zeros(*shape))


@pytest.mark.parametrize(
    ("minimum", "maximum", "wanted"),
    [(3, 5, "3 to 5 dimensions"), (3, 3, "3 dimensions"), (3, None, r"3\+ dimensions")],
)
def test_too_few_dimensions(minimum: int, maximum: int | None, wanted: str) -> None:
    with pytest.raises(ValueError, match=rf"teacher has shape \(2, 3\); {wanted} are needed"):
        check_rank(minimum, maximum, student=zeros(2, 3, 4), teacher=zeros(2, 3))


def test_too_many_dimensions() -> None:
    with pytest.raises(ValueError, match=r"student has shape \(1, 1, 1\); 1 to 2 dimensions"):
        check_rank(1, 2, student=zeros(1, 1, 1))


def test_batches_of_one_size_pass_whatever_else_differs() -> None:
    check_same_batch(student=zeros(2, 3), teacher=zeros(2, 5, 5))


def test_batches_of_different_sizes_are_counted() -> None:
    with pytest.raises(ValueError, match="batch sizes differ: student has 2 rows, teacher has 4 rows"):
        check_same_batch(student=zeros(2, 3), teacher=zeros(4, 3))


def test_one_dimension_is_singular() -> None:
    with pytest.raises(ValueError, match=r"target has shape \(2, 3\); 1 dimension is needed"):
        check_rank(1, 1, target=zeros(2, 3))


@pytest.mark.parametrize("check", [check_same_shape, check_same_batch, check_not_empty])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_no_number_at_all_is_refused(check: Callable[..., None], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"student has shape {re.escape(str(shape))}, not one number: an empty batch"):
        check(student=zeros(*shape), teacher=zeros(*shape))


def test_a_difference_is_told_before_emptiness() -> None:
    with pytest.raises(ValueError, match="student has 0 rows, teacher has 2 rows"):
        check_same_batch(student=zeros(0, 3), teacher=zeros(2, 3))


def test_samples_that_are_related_are_two_or_more() -> None:
    check_several("it compares samples", student=zeros(2, 3))
    with pytest.raises(
        FewSamplesError, match=r"^x has shape \(1, 3\); it compares samples and needs 2 or more in a batch$"
    ):
        check_several("it compares samples", student=zeros(2, 3), x=zeros(1, 3))
