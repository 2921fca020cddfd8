"""Several processes, and accumulated batches, train as one process on big batches does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("distributed.py")
State = dict[str, torch.Tensor]


def trained(folder: Path, processes: int, batch_size: int, accumulate: int) -> dict[str, State]:
    """Train in each of the loops; return weights, the same in all processes, and what the Trainer logged."""
    folder = folder / f"{processes}"
    folder.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    words = [SCRIPT, str(batch_size), str(accumulate), folder]
    done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *others = [torch.load(folder / f"{rank}.pt") for rank in range(processes)]
    for other in others:
        for kind, state in first.items():
            assert all(torch.equal(other[kind][name], value) for name, value in state.items())
    return {**first, "figures": {"logged": torch.load(folder / "figures.pt")}}


@pytest.mark.slow
def test_processes_and_accumulation_change_nothing(tmp_path: Path) -> None:
    whole = trained(tmp_path, processes=1, batch_size=8, accumulate=1)
    apart = trained(tmp_path, processes=2, batch_size=2, accumulate=2)
    for kind, state in whole.items():
        assert not any("teacher" in name for name in state)
        for name, value in state.items():
            torch.testing.assert_close(
                apart[kind][name], value, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
