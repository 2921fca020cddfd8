"""Digests tell apart what differs, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdcore.digest import digest_of, digest_of_file


class Thing:
    """Shows where it lies in memory."""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(2), torch.zeros(3)),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        (torch.zeros(2), torch.tensor([0.0, 1e-30])),
        ([[1], 2], [1, [2]]),
        ({"a": 1}, {"b": 1}),
        ("1", 1),
        (None, 0),
    ],
)
def test_what_differs_is_told_apart(one: Any, other: Any) -> None:
    assert digest_of(one) != digest_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.arange(6).view(2, 3).t().contiguous(), torch.arange(6).view(2, 3).t()),
        (np.arange(3), torch.arange(3)),
        ({"a": 1, "b": [torch.ones(2)]}, {"b": [torch.ones(2)], "a": 1}),
        (Thing(), Thing()),
        (torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
    ],
)
def test_equal_content_has_one_digest(one: Any, other: Any) -> None:
    assert digest_of(one) == digest_of(other)


def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content" * 1000)
    assert digest_of_file(tmp_path / "file") == hashlib.sha256(b"content" * 1000).hexdigest()
    with pytest.raises(FileNotFoundError):
        digest_of_file(tmp_path / "none")


class Packed(torch.Tensor):
    """A tensor that is made of others, as packed weights are."""

    @staticmethod
    def __new__(cls, values: torch.Tensor, scale: torch.Tensor) -> Packed:
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=torch.float32)

    def __init__(self, values: torch.Tensor, scale: torch.Tensor) -> None:
        self.values_, self.scale = values, scale

    @classmethod
    def __torch_dispatch__(cls, *args: Any) -> Any:
        raise NotImplementedError("no arithmetic")

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["values_", "scale"], None


def eye(layout: str) -> torch.Tensor:
    return (
        torch.eye(4).to_sparse_bsr((2, 2))
        if layout == "bsr"
        else getattr(torch.eye(4), {"coo": "to_sparse"}.get(layout, f"to_sparse_{layout}"))()
    )


@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "bsr"])
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_sparse_and_packed_tensors_are_told_apart_by_what_they_hold(layout: str) -> None:
    assert digest_of(eye(layout)) == digest_of(eye(layout))
    assert digest_of(eye(layout)) != digest_of(eye(layout) * 2)
    assert digest_of(eye(layout)) != digest_of(torch.eye(4))


def test_a_packed_tensor_is_told_by_its_parts() -> None:
    values, scale = torch.arange(4, dtype=torch.int8), torch.tensor(0.5)
    assert digest_of(Packed(values, scale)) == digest_of(Packed(values.clone(), scale))
    assert digest_of(Packed(values, scale)) != digest_of(Packed(values, scale * 2))


def test_a_conjugate_view_is_what_it_shows() -> None:
    number = torch.tensor([1 + 2j])
    assert digest_of(number.conj()) == digest_of(torch.tensor([1 - 2j])) != digest_of(number)
