"""Two processes with DeepSpeed end where one ends; they resume exactly, and fail with one message."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from kdcore import build_objective
from kdcore.config.load import load_config
from kdcore.engine.checkpoint import read_state
from kdcore.engine.deepspeed import Partitioned
from kdcore.engine.run import run
from kdcore.errors import RunError, WiringError

HERE = Path(__file__).parent
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed: make test-deepspeed installs it"
)

DIGITS = """
version: 1
name: digits
output_dir: {folder}
data:
  train: {{type: digits, batch_size: 32, shuffle: true}}
  val: {{type: digits, params: {{split: val}}, batch_size: 64}}
models: {{student: {{type: digits_mlp, params: {{width: 4}}}}}}
distributed: {{strategy: deepspeed, config: {file}}}
stages:
  - name: only
    epochs: 1
    steps_per_epoch: 3
    train: [student]
    losses: {{ce: cross_entropy}}
    optimizer: {{type: SGD, params: {{lr: 0.1}}}}
"""

# As files for other trainers are: what the run decides is auto.
FILE = """{
  "train_batch_size": "auto",
  "train_micro_batch_size_per_gpu": "auto",
  "gradient_accumulation_steps": "auto",
  "gradient_clipping": "auto",
  "bf16": {"enabled": "auto"},
  "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto", "stage3_max_live_parameters": 1e9}
}
"""


@pytest.fixture(scope="module")
def runs() -> Any:
    """The module of the runs, as the processes have it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        import partitioned

        yield partitioned


def launch(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Start two processes as torchrun does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(
        [*command, *map(str, words)], env=variables, capture_output=True, text=True, check=False, timeout=1200
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two")
    done = launch(HERE / "partitioned.py", folder)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert not done.stdout
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def weights(folder: str | Path) -> dict[str, Tensor]:
    files = sorted(Path(folder).glob("*.safetensors")) + sorted(Path(folder).glob("checkpoints/*/*.safetensors"))
    return {
        f"{file.relative_to(folder)}: {name}": value
        for file in files
        for name, value in safetensors.torch.load_file(file).items()
    }


def optimizers(folder: str | Path) -> dict[str, Any]:
    """Return the state of the optimizer in the last checkpoint of each stage."""
    return {
        stage.name: read_state(sorted(stage.glob("epoch-*"))[-1])["trainer"]["optimizer"]
        for stage in sorted(Path(folder).glob("checkpoints/*"))
    }


def lines(folder: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


CASES = [
    "kd", "kd_2", "at", "own_parameters", "own_parameters_2", "groups", "groups_2", "accumulated", "accumulated_2",
    "positions", "one_left", "across", "unreached", "skipped", "skipped_2", "bfloat16", "offloaded",
]  # fmt: skip


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_where_one_ends(tmp_path: Path, runs: Any, two: list[dict[str, Any]], case: str) -> None:
    assert list(runs.CASES) == CASES
    folder = Path(two[0]["folders"][case])
    alone = runs.runs.make(tmp_path, case, *runs.CASES[case][0])
    tolerance = 2e-2 if case == "bfloat16" else 1e-5
    close = {"rtol": 0, "atol": tolerance}
    expected, found = weights(alone), weights(folder)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **close, msg=lambda text, name=name: f"{name}: {text}")
    for mine, theirs in zip(lines(folder), lines(alone), strict=True):
        assert (mine["stage"], mine["epoch"], mine["step"]) == (theirs["stage"], theirs["epoch"], theirs["step"])
        assert mine["lr"] == pytest.approx(theirs["lr"])
        assert mine["metrics"] == pytest.approx(theirs["metrics"], abs=tolerance)
    if case == "unreached":  # several processes freeze what no gradient reaches
        return
    # What is saved is an optimizer of whole parameters, in the order of one process.
    states, wanted = optimizers(folder), optimizers(alone)
    assert states.keys() == wanted.keys() == {"first", "second"}
    for name, state in wanted.items():
        assert states[name]["param_groups"] == state["param_groups"]
        assert states[name]["state"].keys() == state["state"].keys()
        for index, values in state["state"].items():
            torch.testing.assert_close(states[name]["state"][index], values, **close)


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_resuming_is_exact(two: list[dict[str, Any]], stage: int) -> None:
    never, twice = two[0]["resumed"][stage]
    assert two[1]["resumed"][stage] == [never, twice]
    expected, found = weights(never), weights(twice)
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []
    assert [line["metrics"] for line in lines(never)] == [line["metrics"] for line in lines(twice)]


@needs_deepspeed
@pytest.mark.slow
def test_a_run_may_go_on_without_deepspeed(two: list[dict[str, Any]]) -> None:
    expected, found = weights(two[0]["resumed"][2][0]), weights(two[0]["without"])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)
    assert '"strategy": "ddp"' in (Path(two[0]["without"]) / "identity.json").read_text()


@needs_deepspeed
@pytest.mark.slow
def test_deepspeed_has_what_is_trained_and_each_process_steps_its_half(two: list[dict[str, Any]]) -> None:
    for (names, mine, whole), (_, other, _) in zip(two[0]["given"], two[1]["given"], strict=True):
        assert {name.split(".")[0] for name in names} <= {"models", "adapters"}
        assert not any("teacher" in name for name in names)
        # Each part is as long as the other; what is left over is padding.
        assert mine == other
        assert whole <= mine + other < whole + 8


@needs_deepspeed
@pytest.mark.slow
def test_what_deepspeed_refuses_is_said_before_training(two: list[dict[str, Any]]) -> None:
    assert "refuses its config" in two[0]["values"]
    assert "reduce_bucket_size" in two[0]["values"]
    assert "ended because another" in two[1]["values"]


@needs_deepspeed
@pytest.mark.slow
def test_a_gradient_that_is_not_finite_stops_the_run(two: list[dict[str, Any]]) -> None:
    # DeepSpeed itself would pass over such a step without a word.
    assert "'first' diverged: in step 2 the losses are finite, but a gradient is not" in two[0]["gradient"]
    assert "process 0 ended because another" in two[0]["odd"]
    assert "diverged: in step 2 term odd is nan on sample 5 of process 1\n" in two[1]["odd"]


@needs_deepspeed
@pytest.mark.slow
def test_a_file_made_for_other_trainers_will_do(tmp_path: Path) -> None:
    file, config = tmp_path / "zero.json", tmp_path / "config.yaml"
    file.write_text(FILE)
    config.write_text(DIGITS.format(folder=tmp_path, file=file))
    done = launch("-m", "kdcore", "run", config)
    assert done.returncode == 0, done.stderr
    assert "DeepSpeed" not in done.stdout + done.stderr
    (folder,) = (tmp_path / "digits").iterdir()
    assert json.loads((folder / "results.json").read_text())["status"] == "completed"
    # The run is complete without the file.
    resolved = load_config(folder / "config.yaml").resolved["distributed"]
    assert resolved["config"]["zero_optimization"]["stage"] == 2


WIRED = """
version: 1
models: {student: {}}
distributed: {strategy: deepspeed, config: {zero_optimization: {stage: 1}}}
stages:
  - name: only
    train: [student]
    losses: {ce: cross_entropy}
"""


class Scaled(nn.Module):
    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.scale = nn.Parameter(scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.scale.float()


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (torch.ones(()), r"without a dimension cannot be sharded: student.scale(.|\n)*shape \(1,\)"),
        (torch.ones(1).double(), r"trains parameters of float32, and student.scale is float64(.|\n)*strategy: ddp"),
    ],
)
def test_what_does_not_fit_into_one_flat_tensor_is_refused(scale: Tensor, message: str) -> None:
    batch = {"input": torch.randn(6, 4), "target": torch.arange(6) % 3}
    config = load_config(WIRED, external_models=("student",))
    build_objective(config, models={"student": Scaled(torch.ones(1))}, example_batch=batch)
    with pytest.raises(WiringError, match=message):
        build_objective(config, models={"student": Scaled(scale)}, example_batch=batch)


def test_a_missing_package_is_said_with_the_command_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(DIGITS.format(folder=tmp_path, file="{zero_optimization: {stage: 1}}"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"needs the package deepspeed(.|\n)*pip install 'kdcore\[deepspeed\]'"):
        Partitioned(config)


def test_one_process_says_that_it_splits_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(load_config(DIGITS.format(folder=tmp_path, file="{zero_optimization: {stage: 1}}")))
    assert "strategy: deepspeed splits nothing, because this run has one process" in "".join(capsys.readouterr())
    assert (folder / "student.safetensors").exists()
    assert "deepspeed" not in sys.modules
