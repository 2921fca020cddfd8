"""Two processes do what one does with the same batches; they end, resume and fail together."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from kdcore.component import Kind
from kdcore.config.config import DataConfig, Part
from kdcore.config.load import load_config
from kdcore.engine.loader import Loader
from kdcore.engine.part import counted
from kdcore.errors import DataError, Place, RunError

SCRIPT = Path(__file__).with_name("distributed.py")

FAILING = """
import torch
import kdcore

class Failing:
    def __len__(self):
        return 32

    def __getitem__(self, index):
        if index == 11:
            raise ValueError("this one is broken")
        return {"input": torch.full((1, 8, 8), float(index)), "target": index % 10}

kdcore.register("dataset", "failing", Failing)
"""

DIGITS = """
version: 1
name: failing
output_dir: {folder}
data: {{train: {{type: failing, batch_size: 8}}}}
models: {{student: {{type: digits_mlp, params: {{width: 4}}}}}}
stages:
  - name: only
    epochs: 1
    train: [student]
    losses: {{ce: cross_entropy}}
    optimizer: {{type: SGD, params: {{lr: 0.1}}}}
"""


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("distributed_runs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


runs = _loaded()


def launch(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Start two processes as torchrun does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **environment}
    return subprocess.run(
        [*command, *map(str, words)], env=variables, capture_output=True, text=True, check=False, timeout=1200
    )


def weights(folder: str | Path) -> dict[str, Tensor]:
    files = sorted(Path(folder).glob("*.safetensors")) + sorted(Path(folder).glob("checkpoints/*/*.safetensors"))
    return {
        f"{file.parent.name if file.parent != Path(folder) else ''}/{file.name}/{name}": value
        for file in files
        for name, value in safetensors.torch.load_file(file).items()
    }


def lines(folder: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def loaders(count: int, **options: Any) -> list[Loader]:
    """Return the loader of each of `count` processes; all of them share one batch of 12."""
    usual = {"batch_size": 12 // count, "sampler": "shuffle", "drop_last": False, "num_workers": 0, "pin_memory": False}
    more = {"prefetch_factor": None, "persistent_workers": False, "place": Place()}
    part = Part(runs.registry().find(Kind.DATASET, "points"), {"length": 50}, Place())
    config = DataConfig(name="train", part=part, **{**usual, **more, **options})
    dataset = runs.Points(50)
    return [Loader(config, dataset, 0, stage="s", rank=rank, count=count) for rank in range(count)]


@pytest.mark.parametrize("skip", [0, 3])
@pytest.mark.parametrize("sampler", ["sequential", "shuffle", "replacement", "balanced"])
def test_processes_share_the_batches_that_one_would_have(sampler: str, skip: int) -> None:
    (alone,) = loaders(1, sampler=sampler)
    wholes = [batch["index"].tolist() for batch in alone.epoch(2, skip)]
    for count in (2, 3, 4):
        parts = [list(each.epoch(2, skip)) for each in loaders(count, sampler=sampler)]
        assert all(len(each) == len(wholes) for each in parts)
        for whole, *shares in zip(wholes, *parts, strict=True):
            sizes = [counted(share) for share in shares]
            assert [size for _, size in sizes] == [len(whole)] * count
            rows = [number for number, _ in sizes]
            assert max(rows) - min(rows) <= 1
            kept = [share["index"][:number].tolist() for share, number in zip(shares, rows, strict=True)]
            assert [index for each in kept for index in each] == whole
            # Who has no sample still has a batch, to take part with.
            assert all(len(share["index"]) for share in shares)


def test_drop_last_leaves_out_what_is_no_batch_of_all() -> None:
    assert [len(each) for each in loaders(2, drop_last=True)] == [4, 4]
    with pytest.raises(DataError, match=r"fewer than batch_size 26 in each of 2 processes, and drop_last"):
        loaders(2, batch_size=26, drop_last=True)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two")
    done = launch(SCRIPT, folder)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("case", [*runs.CASES, *runs.SHARDED])
def test_two_processes_end_where_one_ends(tmp_path: Path, two: list[dict[str, Any]], case: str) -> None:
    folder = Path(two[0]["folders"][case])
    assert two[1]["folders"][case] == str(folder)
    alone = runs.make(tmp_path, case, *(runs.CASES[case] if case in runs.CASES else runs.SHARDED[case][0]))
    tolerance = 2e-2 if "bfloat16" in case else 1e-5
    expected = weights(alone)
    found = weights(folder)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )
    for mine, theirs in zip(lines(folder), lines(alone), strict=True):
        assert (mine["stage"], mine["epoch"], mine["step"]) == (theirs["stage"], theirs["epoch"], theirs["step"])
        assert mine["lr"] == pytest.approx(theirs["lr"])
        assert mine["metrics"] == pytest.approx(theirs["metrics"], abs=tolerance)
    results = [json.loads((each / "results.json").read_text()) for each in (folder, alone)]
    rows = [[{**row, "latency_ms": 0} for row in each["rows"]] for each in results]
    if "bfloat16" not in case:
        assert rows[0] == rows[1]
    assert results[0]["status"] == "completed"
    if "skipped" in case:
        told = [[text for text in each["warnings"] if "is skipped" in text] for each in results]
        assert len(told[0]) == len(told[1]) > 0
        # Without sharding each process looks for the sample again, also where losses communicate.
        assert told[0] == told[1] or "sharded" in case
        assert all(": term odd is nan on sample" in text for text in told[0])


@pytest.mark.slow
def test_a_signal_to_one_process_ends_all_and_resuming_is_exact(two: list[dict[str, Any]]) -> None:
    first, second = two
    assert first["again"] == second["again"]
    assert len(first["advice"]) == len(second["advice"]) == 2
    assert "saved in" in first["advice"][0]
    expected, found = weights(first["whole"]), weights(first["again"])
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []
    ended = [[{**line, "seconds": 0} for line in lines(first[name])] for name in ("whole", "again")]
    assert ended[0] == ended[1]


@pytest.mark.slow
def test_processes_agree_on_what_is_pruned(tmp_path: Path, two: list[dict[str, Any]]) -> None:
    first, second = (each["masks"] for each in two)
    alone = runs.masks(tmp_path)
    assert first.keys() == second.keys() == alone.keys() == {"conv.weight", "body.weight"}
    for name, mask in first.items():
        assert torch.equal(mask, second[name])
        assert torch.equal(mask, alone[name])
        assert not mask.all()


@pytest.mark.slow
def test_another_number_of_processes_cannot_go_on(two: list[dict[str, Any]]) -> None:
    folder = Path(two[0]["whole"])
    plugins = runs.registry()
    plugins.register("model", "dropped", runs.Dropped)
    plugins.register("loss", "signalling", runs.Signalling, inputs=[runs.Input("input")])
    (folder / "checkpoints" / "second" / "result.json").unlink()
    with pytest.raises(RunError, match=r"cannot be resumed as it was: processes: was 2, is 1(.|\n)*in 2 processes"):
        runs.run(load_config(folder / "config.yaml", plugins=plugins), registry=plugins, quiet=True, resume=folder)


@pytest.mark.slow
def test_collectives_gather_uneven_rows_and_their_gradient(two: list[dict[str, Any]]) -> None:
    alone = runs.collectives()
    found = [each["collectives"] for each in two]
    for each in found:
        assert torch.equal(each["gathered"], alone["gathered"])
        assert torch.equal(each["plain"], alone["plain"])
        assert torch.equal(each["own"], each["mine"])
        assert each["sum"].tolist() == [2.0, 1.0]
        assert not each["needs"]
    # Both compute the same loss from all rows, so the gradient is there twice.
    torch.testing.assert_close(torch.cat([each["gradient"] for each in found]), 2 * alone["gradient"])


@pytest.mark.slow
def test_an_objective_may_be_sharded_as_the_root(two: list[dict[str, Any]]) -> None:
    alone = runs.own_loop()
    for each in two:
        assert each["own_loop"].keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(each["own_loop"][name], value, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_sharded_run_holds_each_number_once_and_resumes_exactly(two: list[dict[str, Any]]) -> None:
    for (mine, whole), (other, _) in zip(two[0]["held"], two[1]["held"], strict=True):
        assert mine + other == whole
        assert 0.4 * whole < mine < 0.6 * whole
    never, twice = two[0]["resumed_sharded"]
    expected, found = weights(never), weights(twice)
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []
    assert [line["metrics"] for line in lines(never)] == [line["metrics"] for line in lines(twice)]


@pytest.mark.slow
def test_the_process_where_a_loss_diverged_first_says_so(two: list[dict[str, Any]]) -> None:
    assert "process 0 ended because another" in two[0]["diverged"]
    assert "diverged: in step 2 term odd is nan on sample 5 of process 1\n" in two[1]["diverged"]
    (folder,) = (Path(two[0]["folders"]["kd"]).parents[1] / "diverged").iterdir()
    found = [json.loads((folder / name).read_text())["steps"] for name in ("diverged.json", "diverged-1.json")]
    # The gradient is everybody's.
    assert [(each["step"], each["process"], each["found"]) for (each,) in found] == [
        (2, 0, "the losses are finite, but a gradient is not"),
        (2, 1, "term odd is nan"),
    ]
    assert found[1][0]["samples"] == [5]


@pytest.mark.slow
def test_a_device_with_a_number_is_no_device_of_several_processes(two: list[dict[str, Any]]) -> None:
    assert [
        ("device 'cpu:0' is one device" in each["refused"]) or ("ended because another" in each["refused"])
        for each in two
    ] == [True, True]


@pytest.mark.slow
def test_an_error_in_one_process_ends_all_with_one_message(tmp_path: Path) -> None:
    plugin, config = tmp_path / "plugin.py", tmp_path / "config.yaml"
    plugin.write_text(FAILING)
    config.write_text(DIGITS.format(folder=tmp_path))
    done = launch("-m", "kdcore", "run", config, "--plugin", plugin)
    assert done.returncode == 1
    own = [line for line in done.stderr.splitlines() if line.startswith("kd: ")]
    assert len(own) == 1, done.stderr
    assert "sample 11 failed: ValueError: this one is broken" in own[0]
    # What the launcher says in the end is its own; of the processes none shows a traceback.
    assert "[rank" not in done.stderr
    (folder,) = (tmp_path / "failing").iterdir()
    assert json.loads((folder / "results.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_a_lone_process_does_without_accelerate() -> None:
    code = "import sys, kdcore.engine.run; sys.exit('accelerate' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_wrong_config_is_reported_once(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(DIGITS.format(folder=tmp_path))
    done = launch("-m", "kdcore", "run", config)
    assert done.returncode == 1
    assert done.stderr.count("unknown dataset 'failing'") == 1
