"""A compact model in a run: as a student that is trained on, and as a teacher."""

from pathlib import Path

import pytest
import torch
from kd_plugin_compact.examples import FOLDER

import kdcore
from kdcore.errors import WeightsError

CONFIG = """\
version: 1
name: tiny
output_dir: {out}
data:
  train: {{type: digits, params: {{split: train}}}}
models:
  teacher: {{type: compact, params: {{folder: {folder}}}, weights: as_built}}
  student: {{type: compact, params: {{folder: {folder}}}}}
stages:
  - {{name: distill, epochs: 1, steps_per_epoch: 2, train: [student], losses: {{kd: kd, ce: cross_entropy}}, optimizer: SGD}}
"""


def test_a_run_trains_and_reads_compact_models(tmp_path: Path) -> None:
    config = tmp_path / "kd.yaml"
    config.write_text(CONFIG.format(out=tmp_path / "runs", folder=FOLDER))
    run = kdcore.run(kdcore.load_config(config), quiet=True)
    small = kdcore.create("model", "compact", folder=FOLDER)
    trained = kdcore.create("model", "compact", folder=FOLDER)
    from safetensors.torch import load_file

    trained.load_state_dict(load_file(run / "student.safetensors"))
    assert small.layer1.linear.out_features == 6
    assert not torch.equal(trained.fc.weight, small.fc.weight)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no folder"):
        kdcore.create("model", "compact", folder=str(tmp_path / "no"))
