"""Digests tell apart what differs, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdcore.engine.digest import digest_of, digest_of_file


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
