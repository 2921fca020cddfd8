"""The example scripts whose loop is not kdcore's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def printed(script: str, *options: object) -> dict[str, float]:
    """Run a script on a budget of two steps and return the accuracies that it prints."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "digits" / script, "--steps", "2", *map(str, options)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(\S.*?) {2,}(\d+\.\d) %$", done.stdout, re.MULTILINE)
    return {name: float(percent) for name, percent in found}


@pytest.mark.slow
def test_accelerate_saves_the_student_alone(tmp_path: Path) -> None:
    rows = printed("own_accelerate.py", "--save", tmp_path / "student.pt", "--cpu")
    assert rows.keys() == {"teacher", "student alone", "student distilled"}
    state = torch.load(tmp_path / "student.pt")
    assert all(name.startswith(("features.", "classifier.")) for name in state)
    assert state["classifier.weight"].shape == (10, 16)


@pytest.mark.slow
def test_lightning_keeps_the_student_in_its_checkpoints(tmp_path: Path) -> None:
    rows = printed("own_lightning.py", "--folder", tmp_path)
    assert rows.keys() == {"teacher", "student alone", "student distilled"}
    (file,) = tmp_path.rglob("*.ckpt")
    parts = {".".join(name.split(".")[:3]) for name in torch.load(file, weights_only=False)["state_dict"]}
    assert parts == {"objective.models.student", "objective.adapters.widen"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "config", "right", "wrong", "message"),
    [
        ("digits/own_loop.py", "own_loop.yaml", "type: kd,", "type: kdd,", r":\d+:\d+: .*unknown loss 'kdd'\n    did you mean 'kd'"),
        ("digits/own_lightning.py", "own_loop.yaml", "x: student:features", "x: student:feature", "has no module 'feature'"),
        ("digits/own_accelerate.py", "own_loop.yaml", "weight: 0.9", "wieght: 0.9", "unknown key 'wieght'"),
        ("text/hf_trainer.py", "hf_hidden.yaml", "x: student:transformer.ln_f", "x: student:transformer.ln", "no module 'transformer.ln'"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_config_is_told_before_anything_trains(
    tmp_path: Path, script: str, config: str, right: str, wrong: str, message: str
) -> None:
    folder = shutil.copytree((ROOT / "examples" / script).parent, tmp_path / "examples")
    text = (folder / config).read_text(encoding="utf-8")
    assert text.count(right) == 1
    (folder / config).write_text(text.replace(right, wrong), encoding="utf-8")
    name = Path(script).name
    argument = [folder / config] if name == "hf_trainer.py" else []
    cpu = ["--cpu"] if name == "own_accelerate.py" else []
    done = subprocess.run(
        # So many steps that one who trained first would not come to the end.
        [sys.executable, folder / name, *argument, *cpu, "--steps", "1000000"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert re.search(message, done.stderr)
    assert "Traceback" not in done.stderr
