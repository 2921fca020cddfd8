"""Processes that would each distil towards a teacher of their own are told so before the first step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("disagreeing.py")
TOLD = "'teacher' is frozen and not the same in every process: process 1 differs from process 0 in 1 of {} ({})\n"


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """What each of two processes was told, by the kind of loop."""
    folder = tmp_path_factory.mktemp("disagreeing")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", SCRIPT, folder]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["hand", "trainer", "lightning"])
def test_every_process_is_told_before_the_first_step(said: list[dict[str, str]], loop: str) -> None:
    first, second = (each[loop] for each in said)
    assert first == second
    assert TOLD.format("4 tensors", "2.bias") in first
    assert "load the same weights in each, seed the generators before the model is built" in first


@pytest.mark.slow
def test_what_the_message_proposes_helps(said: list[dict[str, str]]) -> None:
    assert [each["repaired"] for each in said] == ["", ""]


@pytest.mark.slow
def test_a_run_says_so_once_and_leaves_no_folder(said: list[dict[str, str]]) -> None:
    told = sorted((each["run"] for each in said), key=len)
    assert told[0].endswith("ended because another process of the run failed, which says why")
    assert TOLD.format("3 tensors", "2.by") in told[1]
    assert "models.teacher" in told[1]
    assert "give every machine the same weights file" in told[1]
    assert [each["folder"] for each in said] == ["False", "False"]
