"""The example scripts whose loop is Accelerate's or Lightning's."""

from __future__ import annotations

import os
import re
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
