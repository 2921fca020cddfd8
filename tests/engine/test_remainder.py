"""A last batch that is too short for a loss or a model is found before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor, nn

from kdcore.config.load import load_config
from kdcore.engine.data import Datasets
from kdcore.engine.dry_run import dry_run
from kdcore.engine.run import run
from kdcore.errors import WiringError
from kdcore.plugins import Registry

# 80 scans to train on, 360 to validate.
CONFIG = """\
version: 1
name: short
output_dir: {folder}
data:
  train: {{type: digits, params: {{split: train, samples_per_class: 8}}, batch_size: 79, shuffle: true}}
  val: {{type: digits, params: {{split: val}}, batch_size: 90}}
models:
  teacher: {{type: digits_mlp, params: {{width: 8}}, weights: as_built}}
  student: {{type: digits_mlp, params: {{width: 4}}}}
stages:
  - name: first
    epochs: 1
    train: [student]
    data: {{train: val}}
    losses: {{ce: cross_entropy}}
    optimizer: {{type: SGD, params: {{lr: 0.1}}}}
  - name: last
    epochs: 1
    train: [student]
    losses:
      ce: cross_entropy
      rkd: {{type: rkd, inputs: {{student: student, teacher: teacher}}}}
    optimizer: {{type: SGD, params: {{lr: 0.1}}}}
"""
TRAIN = r"losses\.rkd: term 'rkd' (.|\n)*needs 2 or more(.|\n)*in the last batch of data 'train', which holds 1 of its 80 samples"
VAL = r"losses\.rkd: term 'rkd' (.|\n)*needs 2 or more(.|\n)*in the last batch of data 'val', which holds 1 of its 360 samples"


class Normalised(nn.Module):
    """Normalises by the statistics of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def text(tmp_path: Path) -> str:
    return CONFIG.format(folder=tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), TRAIN + r"(.|\n)*choose another batch_size for 'train' than 79, or write drop_last: true$"),
        (
            ("data.train.batch_size=80", "data.val.batch_size=359"),
            VAL + r"(.|\n)*choose another batch_size for 'val' than 359$",
        ),
    ],
)
def test_a_batch_of_one_is_refused_before_the_first_stage(
    tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    config = load_config(text(tmp_path), overrides=overrides)
    with pytest.raises(WiringError, match=message):
        dry_run(config)
    with pytest.raises(WiringError, match=message):
        run(config, quiet=True)
    assert not list(tmp_path.glob("short/*/checkpoints/*"))


@pytest.mark.parametrize(
    "overrides",
    [
        ("data.train.drop_last=true",),
        ("data.train.batch_size=78",),
        ("stages.last.steps_per_epoch=1",),
        ("stages.last.losses.rkd.enabled=false",),
    ],
)
def test_what_is_never_met_or_does_no_harm_is_no_mistake(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    dry_run(load_config(text(tmp_path), overrides=overrides))


def test_a_model_that_normalises_cannot_train_on_one_sample_but_is_judged_on_one(tmp_path: Path) -> None:
    plugins = Registry.discover()
    plugins.register("model", "normalised", Normalised)
    overrides = ("models.student.type=normalised", "models.student.params={}", "stages.last.losses.rkd.enabled=false")
    with pytest.raises(WiringError, match=r"Expected more than 1 value per channel(.|\n)*holds 1 of its 80 samples"):
        dry_run(load_config(text(tmp_path), overrides=overrides, plugins=plugins))
    fine = (*overrides, "data.train.batch_size=80", "data.val.batch_size=359", "stages.first.data.train=train")
    dry_run(load_config(text(tmp_path), overrides=fine, plugins=plugins))


def test_the_rehearsal_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = Registry.discover()
    plugins.register("model", "normalised", Normalised)
    overrides = ("models.student.type=normalised", "models.student.params={}", "data.train.batch_size=32")
    config = load_config(text(tmp_path), overrides=overrides, plugins=plugins)
    looked = (run(config, quiet=True, registry=plugins) / "student.safetensors").read_bytes()
    monkeypatch.setattr("kdcore.engine.dry_run.check_remainders", lambda *arguments: None)
    assert (run(config, quiet=True, registry=plugins) / "student.safetensors").read_bytes() == looked


@pytest.mark.parametrize(("batch", "count", "left"), [(79, 1, 1), (80, 1, 0), (32, 1, 16), (32, 2, 8), (13, 6, 1)])
def test_processes_share_what_is_left(tmp_path: Path, batch: int, count: int, left: int) -> None:
    config = load_config(text(tmp_path), overrides=(f"data.train.batch_size={batch}",))
    assert Datasets(config.data, 0, count).loader("train", 0, stage="s").left_over == left
