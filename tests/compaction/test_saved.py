"""A compact model in a folder: what is written, what is read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from kd_plugin_digits.networks import DigitsCNN
from safetensors.torch import load_file
from torch import nn

import kdcore
from kdcore.compaction.compact import CompactModel
from kdcore.errors import ConfigError, PluginError, RunError, WeightsError
from tests.compaction.nets import Transformer, lively, zero_filters, zero_inputs

DIGITS = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
TYPE: dict[str, Any] = {"type": "digits_cnn", "params": {"width": 4}}


@pytest.fixture(scope="module")
def small() -> CompactModel:
    """Return a compact digits network."""
    model = lively(DigitsCNN(width=4))
    zero_filters(model.block1.conv, [1], model.block1.bn)
    zero_filters(model.block2.conv, [0, 7], model.block2.bn)
    return kdcore.compact(model, DIGITS)


@pytest.fixture
def folder(small: CompactModel, tmp_path: Path) -> Path:
    """Return the folder it was saved in."""
    return small.save(tmp_path / "small", **TYPE)


def record(folder: Path, change: Any) -> None:
    """Change what compact.json says."""
    file = folder / "compact.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def test_a_saved_model_is_built_from_its_type_and_yields_the_same(small: CompactModel, folder: Path) -> None:
    loaded = kdcore.load_compact(folder)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(DIGITS), small.model.eval()(DIGITS))
    assert sorted(each.name for each in folder.iterdir()) == ["compact.json", "model.safetensors"]


def test_what_the_record_says(folder: Path) -> None:
    data = json.loads((folder / "compact.json").read_text())
    assert data["model"] == TYPE
    assert data["modules"]["block2.conv"] == {
        "kind": "Conv2d",
        "attributes": {"out_channels": 6, "in_channels": 3},
        "shapes": {"weight": [6, 3, 3, 3]},
    }
    assert data["report"]["before"]["parameters"] > data["report"]["after"]["parameters"]
    assert load_file(folder / "model.safetensors")["block2.conv.weight"].shape == (6, 3, 3, 3)


def test_a_loaded_model_can_be_trained(folder: Path) -> None:
    loaded = kdcore.load_compact(folder).train()
    loaded(DIGITS).sum().backward()
    assert all(each.grad is not None for each in loaded.parameters())


def test_attention_with_fewer_heads_comes_back(tmp_path: Path) -> None:
    model = lively(Transformer(batch_first=True))
    zero_inputs(model.encoder.self_attn.out_proj, range(4))
    x = torch.randn(2, 3, 16)
    small = kdcore.compact(model, x)
    loaded = kdcore.load_compact(small.save(tmp_path / "small"), Transformer(batch_first=True))
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), model(x))


def test_a_bias_that_the_original_lacks_comes_back(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 2, 3, bias=False))

    model = lively(build())
    zero_filters(model[0], [1])
    loaded = kdcore.load_compact(kdcore.compact(model, DIGITS).save(tmp_path / "small"), build())
    with torch.no_grad():
        torch.testing.assert_close(loaded(DIGITS), model(DIGITS))


def test_a_model_saved_without_type_must_be_brought(small: CompactModel, tmp_path: Path) -> None:
    folder = small.save(tmp_path / "small")
    with pytest.raises(WeightsError, match="names no type of model") as e:
        kdcore.load_compact(folder)
    assert "pass the original model" in e.value.problem.repair
    kdcore.load_compact(folder, DigitsCNN(width=4))
    with pytest.raises(WeightsError, match=r"has a Conv2d 'block1\.conv', and Linear has no such module"):
        kdcore.load_compact(folder, nn.Linear(2, 2))
    with pytest.raises(WeightsError, match="do not fit"):
        kdcore.load_compact(folder, DigitsCNN(width=5))


def test_a_folder_that_exists_is_left_alone(small: CompactModel, folder: Path) -> None:
    before = (folder / "compact.json").read_bytes()
    with pytest.raises(RunError, match="exists already and is not empty") as e:
        small.save(folder)
    assert "nothing is overwritten" in e.value.problem.repair
    assert (folder / "compact.json").read_bytes() == before
    (folder.parent / "empty").mkdir()
    small.save(folder.parent / "empty")


def test_a_write_that_fails_leaves_nothing(
    small: CompactModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kdcore.compaction.saved.save_tensors", full)
    with pytest.raises(RunError, match="No space left on device"):
        small.save(tmp_path / "small")
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_weights_file(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        kdcore.load_compact(folder)


def test_missing_files(folder: Path) -> None:
    with pytest.raises(WeightsError, match="there is no folder"):
        kdcore.load_compact(folder / "not")
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"there is no weights file .*model.safetensors"):
        kdcore.load_compact(folder)
    (folder / "compact.json").unlink()
    with pytest.raises(WeightsError, match=r"there is no compact.json in"):
        kdcore.load_compact(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("modules"), "is damaged: KeyError: 'modules'"),
        (lambda data: data["modules"]["fc"].update(code="x"), "is damaged: TypeError"),
        (lambda data: data["modules"]["fc"]["attributes"].update(in_features="8"), "'fc' has in_features = '8'"),
        (lambda data: data["modules"]["fc"]["attributes"].update(in_features=0), "'fc' has in_features = 0"),
        (lambda data: data["modules"]["fc"]["attributes"].update(_x=3), "'fc' has _x = 3"),
        (lambda data: data["modules"]["fc"]["shapes"].update(weight=[10, -1]), "has weight of shape"),
        (lambda data: data["model"].update(params=None), "is damaged: TypeError: model has no params"),
        (lambda data: data.update(format=7), "has format 7, this version of kdcore reads 1"),
    ],
)
def test_a_damaged_record(folder: Path, change: Any, message: str) -> None:
    def with_an_entry(data: dict[str, Any]) -> None:
        data["modules"]["fc"] = {"kind": "Linear", "attributes": {}, "shapes": {}}
        change(data)

    record(folder, with_an_entry)
    with pytest.raises(WeightsError, match=message):
        kdcore.load_compact(folder)


def test_a_record_that_is_no_json(folder: Path) -> None:
    (folder / "compact.json").write_text("{")
    with pytest.raises(WeightsError, match="is damaged: JSONDecodeError"):
        kdcore.load_compact(folder)


def test_attributes_that_a_module_does_not_have(folder: Path) -> None:
    record(folder, lambda data: data["modules"]["block1.conv"]["attributes"].update(forward=3))
    with pytest.raises(WeightsError, match="has no whole number 'forward' that could be 3"):
        kdcore.load_compact(folder)


def test_a_type_that_is_not_installed(folder: Path) -> None:
    record(folder, lambda data: data["model"].update(type="digits_cnm"))
    with pytest.raises(PluginError, match="digits_cnm"):
        kdcore.load_compact(folder)
    record(folder, lambda data: data["model"].update(type="digits_cnn", params={"wide": 4}))
    with pytest.raises(ConfigError, match="wide"):
        kdcore.load_compact(folder)
