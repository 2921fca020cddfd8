"""Losses and gradients that are NaN or infinite: found, named, and dealt with as the config says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from kdcore.component import Input
from kdcore.config.load import load_config
from kdcore.engine.progress import Progress
from kdcore.engine.run import run
from kdcore.errors import RunError
from kdcore.plugins import Registry

BASE = """\
version: 1
name: fragile
output_dir: {folder}
data:
  train: {{type: digits, params: {{split: train, samples_per_class: 8}}, batch_size: 8, shuffle: true}}
  val: {{type: digits, params: {{split: val}}, batch_size: 256}}
models:
  student: {{type: digits_cnn, params: {{width: 2}}}}
checkpoints: {{every_steps: 3}}
stages:
  - name: only
    epochs: 3
    train: [student]
    losses:
      ce: cross_entropy
      odd: {{type: fragile, inputs: {{input: student, index: batch:index}}}}
    optimizer: {{type: SGD, params: {{lr: 0.1, momentum: 0.9}}}}
    scheduler: {{type: ExponentialLR, params: {{gamma: 0.5}}}}
"""


class Fragile(nn.Module):
    """Breaks in chosen training steps: its value, or only its gradient."""

    steps: tuple[int, ...] = ()
    gradient_only = False

    def __init__(self) -> None:
        super().__init__()
        self.seen = -1
        self.training_only = True

    def progress(self, step: int, total_steps: int, epoch: int) -> None:
        self.seen = step

    def forward(self, input: Tensor, index: Tensor) -> Tensor:
        mean = input.square().mean()
        if self.seen not in type(self).steps:
            return mean
        return (mean - mean.detach()).abs().sqrt() if type(self).gradient_only else mean * math.nan


class Heard(Progress):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> type[Fragile]:
    monkeypatch.setattr(Fragile, "steps", ())
    monkeypatch.setattr(Fragile, "gradient_only", False)
    return Fragile


def execute(folder: Path, *overrides: str, resume: Path | None = None) -> tuple[Path, list[str]]:
    registry = Registry.discover()
    registry.register("loss", "fragile", Fragile, inputs=[Input("input"), Input("index")])
    heard = Heard()
    config = load_config(BASE.format(folder=folder), overrides=overrides, plugins=registry)
    return run(config, progress=heard, registry=registry, resume=resume, accept_changes=True), heard.messages


def the_run(folder: Path) -> Path:
    (found,) = (folder / "fragile").iterdir()
    return found


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_nan_stops_the_run_and_names_term_step_and_samples(tmp_path: Path, fragile: Any) -> None:
    fragile.steps = (14,)
    with pytest.raises(
        RunError, match=r"stage 'only' diverged: in step 14 term odd is nan on samples \d+, (\d+, )+"
    ) as caught:
        execute(tmp_path)
    assert "on_nonfinite: skip" in str(caught.value)
    assert "term ce" not in str(caught.value)
    # What was saved before is sound, and the run goes on from there once the cause is gone.
    newest = max((the_run(tmp_path) / "checkpoints" / "only").glob("epoch-*"))
    saved = safetensors.torch.load_file(newest / "objective.safetensors")
    assert all(bool(value.isfinite().all()) for value in saved.values())
    fragile.steps = ()
    folder, _ = execute(tmp_path, resume=the_run(tmp_path))
    assert [line["epoch"] for line in lines(folder)] == [0, 1, 2]
    fragile.steps = ()
    whole, _ = execute(tmp_path / "whole")
    assert lines(folder)[-1]["metrics"] == lines(whole)[-1]["metrics"]


def test_a_gradient_alone_that_is_nan_is_found_before_weights_are_saved(tmp_path: Path, fragile: Any) -> None:
    fragile.steps, fragile.gradient_only = (8,), True
    with pytest.raises(RunError, match=r"after step 9 \d+ parameters are not finite, such as student\."):
        execute(tmp_path)


@pytest.mark.parametrize("gradient_only", [False, True])
def test_a_bad_step_is_skipped_and_told(tmp_path: Path, fragile: Any, gradient_only: bool) -> None:
    fragile.steps, fragile.gradient_only = (4, 5, 17), gradient_only
    folder, messages = execute(tmp_path, "stages.only.on_nonfinite=skip")
    skipped = [text for text in messages if "is skipped" in text]
    assert [text.split(" is skipped")[0] for text in skipped] == [
        "stage only: step 4",
        "stage only: step 5",
        "stage only: step 17",
    ]
    found = "a gradient is not" if gradient_only else "term odd is nan on samples"
    assert all(found in text for text in skipped)
    assert "3 of at most 10" in skipped[-1]
    assert all(math.isfinite(value) for line in lines(folder) for value in line["metrics"].values())
    final = safetensors.torch.load_file(folder / "student.safetensors")
    assert all(bool(value.isfinite().all()) for value in final.values())
    assert json.loads((folder / "results.json").read_text())["warnings"][-3:] == skipped


def test_a_skipped_step_leaves_no_trace_in_weights_or_buffers(tmp_path: Path, fragile: Any) -> None:
    fragile.steps = tuple(range(10))
    one_epoch = ("stages.only.epochs=1", "stages.only.on_nonfinite=skip", "models.student.seed=3")
    folder, _ = execute(tmp_path, *one_epoch)
    built = load_config(
        BASE.format(folder=tmp_path), overrides=("models.student.seed=3", "stages.only.losses.odd=cross_entropy")
    )
    torch.manual_seed(3)
    from kdcore.pipeline.randomness import seed_everything

    seed_everything(3)
    fresh = built.models["student"].part.build().state_dict()  # type: ignore[union-attr]
    final = safetensors.torch.load_file(folder / "student.safetensors")
    assert all(torch.equal(final[name], value) for name, value in fresh.items())
    assert "bn.running_mean" in " ".join(final)


def test_too_many_skipped_steps_stop_the_run(tmp_path: Path, fragile: Any) -> None:
    fragile.steps = (4, 5, 6)
    with pytest.raises(RunError, match=r"in step 6 term odd is nan .* after 2 skipped steps"):
        execute(tmp_path, "stages.only.on_nonfinite={action: skip, limit: 2}")


def test_the_rate_is_lowered_whatever_the_scheduler_says(tmp_path: Path, fragile: Any) -> None:
    fragile.steps = (2, 12)
    policy = "stages.only.on_nonfinite={action: lower_rate, factor: 0.1}"
    folder, messages = execute(tmp_path, policy)
    assert [line["lr"][0] for line in lines(folder)] == pytest.approx([0.1 * 0.1, 0.05 * 0.01, 0.025 * 0.01])
    assert "multiplied by 0.01 from here on" in messages[-1] or any("0.01 from here on" in text for text in messages)


def test_the_lowered_rate_survives_a_resume(tmp_path: Path, fragile: Any) -> None:
    policy = "stages.only.on_nonfinite={action: lower_rate, limit: 1}"
    fragile.steps = (2, 14)
    with pytest.raises(RunError, match="after 1 skipped"):
        execute(tmp_path, policy)
    fragile.steps = (2,)
    folder, _ = execute(tmp_path, policy, resume=the_run(tmp_path))
    whole, _ = execute(tmp_path / "whole", policy)
    one, two = (safetensors.torch.load_file(each / "student.safetensors") for each in (folder, whole))
    assert all(torch.equal(one[name], two[name]) for name in one)
