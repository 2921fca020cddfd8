"""The loops that the documentation shows run, and do what it says."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2LMHeadModel

LOOPS = Path(__file__).parents[2] / "docs" / "loops"


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs a page's only snippet in an empty folder and returns its names."""
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)

    def run(page: str) -> dict[str, Any]:
        (text,) = re.findall(r"^```python\n(.*?)^```$", (LOOPS / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)
        names: dict[str, Any] = {}
        torch.manual_seed(0)
        exec(compile(text, page, "exec"), names)
        return names

    yield run
    os.environ.clear()
    os.environ.update(before)


def test_accelerate(ran: Any, tmp_path: Path) -> None:
    names = ran("accelerate.md")
    nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 10)).load_state_dict(torch.load(tmp_path / "student.pt"))
    assert all(each.grad is None for each in names["teacher"].parameters())


def test_transformers(ran: Any, tmp_path: Path) -> None:
    names = ran("transformers.md")
    assert {"eval_loss", "eval_ce", "eval_kd", "eval_hidden"} <= names["trainer"].evaluate().keys()
    assert names["trainer"].state.global_step == 4
    assert GPT2LMHeadModel.from_pretrained(tmp_path / "student").config.n_embd == 16


def test_lightning(ran: Any) -> None:
    names = ran("lightning.md")
    figures = {f"{split}/{name}" for split in ("train", "val") for name in ("loss", "ce", "kd")}
    assert names["trainer"].callback_metrics.keys() == figures
    assert type(names["plain"]) is nn.Sequential
