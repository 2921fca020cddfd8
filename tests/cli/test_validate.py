"""`kd validate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MINE = """
from torch import nn
import kdcore

class Mine(nn.Module):
    "A loss of my own."
    def __init__(self, scale: float = 2.0):
        super().__init__()
    def forward(self, student, teacher):
        return (student - teacher).abs().mean()

kdcore.register("loss", "mine", Mine)
"""


def test_a_valid_config(kd: Any, config: Path) -> None:
    called = kd("validate", config)
    assert called == (0, f"{config}: valid (1 stage, 2 models, 1 loss)\n", "")


def test_every_mistake_at_once_with_its_position(kd: Any, config: Path) -> None:
    text = config.read_text().replace("type: kd,", "type: kdd,").replace("epochs: 1", "epochs: 0")
    config.write_text(text)
    called = kd("validate", config)
    assert called.code == 1
    assert "2 errors in the config" in called.err
    assert f"{config}:10:13: stages.distill.epochs" in called.err
    assert f"{config}:14:18: stages.distill.losses.kd.type: unknown loss 'kdd'" in called.err
    assert "did you mean 'kd'" in called.err


def test_json_for_other_programs(kd: Any, config: Path) -> None:
    assert json.loads(kd("validate", config, "--json").out) == {"config": str(config), "valid": True, "problems": []}
    called = kd("validate", config, "--json", "--set", "stages.distill.epochs=0")
    found = json.loads(called.out)
    assert (called.code, called.err, found["valid"]) == (1, "", False)
    (problem,) = found["problems"]
    assert problem["path"] == "stages.distill.epochs"
    assert problem["file"] == "--set stages.distill.epochs=0"
    assert set(problem) == {"what", "repair", "path", "file", "line", "column"}


def test_json_of_a_file_that_is_missing(kd: Any, tmp_path: Path) -> None:
    called = kd("validate", tmp_path / "absent.yaml", "--json")
    assert called.code == 1
    assert "absent.yaml" in json.loads(called.out)["problems"][0]["file"]


def test_overrides_are_checked_like_the_file(kd: Any, config: Path) -> None:
    assert kd("validate", config, "--set", "seed=3", "--set", "stages.0.epochs=7").code == 0
    called = kd("validate", config, "--set", "stages.distil.epochs=7")
    assert called.code == 1
    assert "did you mean 'distill'" in called.err


def test_a_plugin_file(kd: Any, config: Path, tmp_path: Path) -> None:
    config.write_text(config.read_text().replace("{type: kd, weight: 0.9, params: {temperature: 4}}", "mine"))
    assert "unknown loss 'mine'" in kd("validate", config).err
    plugin = tmp_path / "mine.py"
    plugin.write_text(MINE)
    assert kd("validate", config, "--plugin", plugin).code == 0


def test_a_plugin_file_that_is_missing_is_reported_as_json_too(kd: Any, config: Path) -> None:
    called = kd("validate", config, "--plugin", "absent.py", "--json")
    assert called.code == 1
    assert json.loads(called.out)["problems"][0]["what"] == "no plugin file 'absent.py'"


def test_a_dry_run_prints_each_stage(kd: Any, config: Path) -> None:
    called = kd("validate", config, "--dry-run")
    assert called.code == 0, called.err
    assert "distill" in called.out
    assert called.out.endswith(f"{config}: valid (1 stage, 2 models, 1 loss)\n")


def test_a_dry_run_finds_what_the_text_cannot_show(kd: Any, config: Path) -> None:
    wrong = ("--set", "stages.distill.losses.kd.inputs.student=student:no_such_layer")
    assert kd("validate", config, *wrong).code == 0
    called = kd("validate", config, *wrong, "--dry-run")
    assert called.code == 1
    assert "no_such_layer" in called.err


def test_a_dry_run_with_json_keeps_the_output_readable(kd: Any, config: Path) -> None:
    called = kd("validate", config, "--dry-run", "--json")
    assert json.loads(called.out)["valid"] is True
    assert "distill" in called.err
