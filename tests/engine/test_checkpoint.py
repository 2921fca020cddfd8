"""Checkpoints: complete or not there, tied tensors loadable by any class."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from kdcore.engine.checkpoint import load_checkpoint, save_checkpoint, save_tensors
from kdcore.errors import RunError


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_tied_tensors_are_written_under_every_name(tmp_path: Path) -> None:
    source = Tied()
    save_tensors(source.state_dict(), tmp_path / "w.safetensors")
    loaded = safetensors.torch.load_file(tmp_path / "w.safetensors")
    assert set(loaded) == {"embed.weight", "head.weight"}
    target = Tied()
    target.load_state_dict(loaded)
    assert torch.equal(target.head.weight, source.embed.weight)
    assert list(tmp_path.iterdir()) == [tmp_path / "w.safetensors"]


def test_weights_may_be_read_by_whom_any_new_file_may(tmp_path: Path) -> None:
    save_tensors({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_views_write_only_themselves(tmp_path: Path) -> None:
    base = torch.arange(1000.0)
    save_tensors({"a": base[:3], "b": base.view(10, 100).t()}, tmp_path / "w.safetensors")
    loaded = safetensors.torch.load_file(tmp_path / "w.safetensors")
    assert torch.equal(loaded["a"], base[:3])
    assert torch.equal(loaded["b"], base.view(10, 100).t())


def test_a_checkpoint_is_replaced_as_a_whole(tmp_path: Path) -> None:
    model = Tied()
    folder = tmp_path / "last"
    save_checkpoint(folder, model.state_dict(), {"epoch": 1})
    with torch.no_grad():
        model.embed.weight.add_(1)
    wanted = model.embed.weight.clone()
    save_checkpoint(folder, model.state_dict(), {"epoch": 2, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}})
    with torch.no_grad():
        model.embed.weight.zero_()
    state = load_checkpoint(folder, model)
    assert state["epoch"] == 2
    assert torch.equal(model.embed.weight, wanted)
    assert [each.name for each in tmp_path.iterdir()] == ["last"]


def test_a_failing_save_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    model = Tied()
    save_checkpoint(tmp_path / "last", model.state_dict(), {"epoch": 1})
    with pytest.raises(RunError, match=r"epoch is of type function"):
        save_checkpoint(tmp_path / "last", model.state_dict(), {"epoch": lambda: None})
    assert load_checkpoint(tmp_path / "last", model) == {"epoch": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["last"]
