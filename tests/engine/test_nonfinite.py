"""Losses and gradients that are NaN or infinite: found, named, and dealt with as the config says."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset

from kdcore import build_objective
from kdcore.component import Input
from kdcore.config.config import Config
from kdcore.config.load import load_config
from kdcore.engine.before_step import LARGEST_KEPT
from kdcore.engine.data import Datasets
from kdcore.engine.gradient_samples import GradientSamples
from kdcore.engine.mean import Mean
from kdcore.engine.nonfinite import Guard
from kdcore.engine.processes import Processes
from kdcore.engine.progress import Progress
from kdcore.engine.run import run
from kdcore.engine.selection import Selection
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


class Pointed(nn.Module):
    """Is NaN on sample 17, and has a gradient that is NaN on sample 41."""

    training_only = True

    def forward(self, input: Tensor, index: Tensor) -> Tensor:
        rows = input.square().sum(-1) * torch.where(index == 17, math.nan, 1.0)
        return (rows * (index != 41)).sqrt().mean()


class Replayed(Fragile):
    """Computes its value again in the backward pass, in the way that autograd.grad refuses."""

    def forward(self, input: Tensor, index: Tensor) -> Tensor:
        value: Tensor = checkpoint(super().forward, input, index, use_reentrant=True)
        return value


class Blind(nn.Module):
    """Is NaN wherever nothing is trained."""

    def forward(self, input: Tensor) -> Tensor:
        return input.square().mean() * (1 if self.training else math.nan)


class Averaging(nn.Module):
    """Divides by an average that it keeps; NaN on sample 17, which is then in the average."""

    ema: Tensor

    def __init__(self, in_place: bool = False) -> None:
        super().__init__()
        self.in_place = in_place
        self.register_buffer("ema", torch.ones(()))

    def forward(self, input: Tensor, index: Tensor) -> Tensor:
        value = input.square().mean() * torch.where((index == 17).any(), math.nan, 1.0)
        if self.training and torch.is_grad_enabled():
            if self.in_place:
                self.ema.mul_(0.9).add_(0.1 * value.detach())
            else:
                self.ema = 0.9 * self.ema + 0.1 * value.detach()
        return value / (1 + self.ema)


class Masked(nn.Module):
    """Holds a large mask with infinite entries, as attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((LARGEST_KEPT + 1,), -math.inf))

    def forward(self, input: Tensor) -> Tensor:
        return input.square().mean()


class Spoilt(Dataset[dict[str, Tensor]]):
    """Digits, one of which has an infinite pixel."""

    targets = torch.arange(80) % 10
    class_names = tuple("0123456789")

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = torch.full((1, 8, 8), float(self.targets[index]) / 10)
        if index == 41:
            image[0, 3, 3] = math.inf
        return {"input": image, "target": self.targets[index]}


def config(folder: Path, *overrides: str, plugins: Registry | None = None) -> Config:
    registry = plugins or Registry.discover()
    registry.register("loss", "fragile", Fragile, inputs=[Input("input"), Input("index")])
    registry.register("loss", "replayed", Replayed, inputs=[Input("input"), Input("index")])
    registry.register("loss", "pointed", Pointed, inputs=[Input("input"), Input("index")])
    registry.register("loss", "blind", Blind, inputs=[Input("input")])
    registry.register("loss", "averaging", Averaging, inputs=[Input("input"), Input("index")])
    registry.register("loss", "masked", Masked, inputs=[Input("input")])
    registry.register("dataset", "spoilt", Spoilt)
    return load_config(BASE.format(folder=folder), overrides=overrides, plugins=registry)


def execute(
    folder: Path, *overrides: str, resume: Path | None = None, accept_changes: bool = True, heard: Heard | None = None
) -> tuple[Path, list[str]]:
    registry, heard = Registry.discover(), heard or Heard()
    checked = config(folder, *overrides, plugins=registry)
    found = run(checked, progress=heard, registry=registry, resume=resume, accept_changes=accept_changes)
    return found, heard.messages


def the_run(folder: Path) -> Path:
    (found,) = (folder / "fragile").iterdir()
    return found


def diverged(folder: Path) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = json.loads((folder / "diverged.json").read_text())["steps"]
    return steps


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


@pytest.mark.parametrize("every", [3, 1])
def test_a_gradient_alone_that_is_nan_is_found_before_weights_are_saved(
    tmp_path: Path, fragile: Any, every: int
) -> None:
    fragile.steps, fragile.gradient_only = (8,), True
    with pytest.raises(
        RunError,
        match=r"in step 8 the losses are finite, but a gradient is not, on samples \d+, .*; after it 11 parameters are "
        r"not finite, such as student\.",
    ) as caught:
        execute(tmp_path, f"checkpoints.every_steps={every}")
    # A checkpoint of 8 steps is what step 8 begins with.
    newest = {3: "epoch-00000-step-000000006", 1: "epoch-00000-step-000000008"}[every]
    assert f"the latest checkpoint, {newest}, is from before" in str(caught.value)


def test_a_gradient_is_the_cause_of_the_losses_after_it(tmp_path: Path, fragile: Any) -> None:
    """All terms are NaN in step 9, on other samples: step 8 has made the weights so."""
    fragile.steps, fragile.gradient_only = (8,), True
    heard = Heard()
    with pytest.raises(RunError, match=r"in step 8 the losses are finite, but a gradient is not, on samples") as caught:
        execute(tmp_path, "checkpoints.every_steps=1000", heard=heard)
    assert "step 9" not in str(caught.value)
    assert "no checkpoint of this stage had been saved before, so a resumed run starts the stage anew" in str(
        caught.value
    )
    assert heard.messages[-1].endswith("with stages.only.on_nonfinite=skip in the config goes on from there")
    (record,) = diverged(the_run(tmp_path))
    assert (record["stage"], record["step"], record["outcome"], record["process"]) == ("only", 8, "stopped", 0)
    # The samples of that step, as the order of the first epoch has them.
    loader = Datasets(config(tmp_path).data).loader("train", 0, stage="only")
    batch = next(itertools.islice(loader.epoch(0), 8, None))
    assert record["samples"] == batch["index"].tolist()


def test_weights_that_are_far_too_large_are_told_from_a_gradient(tmp_path: Path) -> None:
    with pytest.raises(
        RunError,
        match=r"in step (\d+) term ce is (nan|inf) and term odd is (nan|inf) on samples .*; as no term is finite, step \d+, on "
        r"samples .*, may have left weights that are not finite or far too large\n",
    ):
        execute(tmp_path, "stages.only.optimizer.params.lr=1e30")


def test_data_that_are_not_finite_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        RunError,
        match=r"in step \d+ term ce is nan and term odd is nan on .*; batch:input of sample 41 is not finite\n",
    ):
        execute(tmp_path, "data.train={type: spoilt, batch_size: 8, shuffle: true}")


def test_a_change_of_the_policy_alone_is_no_other_run(tmp_path: Path, fragile: Any) -> None:
    fragile.steps = (14,)
    with pytest.raises(RunError):
        execute(tmp_path)
    folder, _ = execute(tmp_path, "stages.only.on_nonfinite=skip", resume=the_run(tmp_path), accept_changes=False)
    assert [each["outcome"] for each in diverged(folder)] == ["skipped"]
    assert len(lines(folder)) == 3


def test_what_is_skipped_names_the_term_and_the_very_sample(tmp_path: Path) -> None:
    pointed = "stages.only.losses.odd={type: pointed, inputs: {input: student, index: batch:index}}"
    folder, messages = execute(tmp_path, pointed, "stages.only.on_nonfinite=skip", "stages.only.epochs=1")
    value, gradient = sorted((text for text in messages if "is skipped" in text), key=lambda text: "gradient" in text)
    assert value.endswith(": term odd is nan on sample 17")
    assert gradient.endswith(": the losses are finite, but the gradient of term odd is not, on sample 41")
    records = diverged(folder)
    assert sorted(record["terms"]["odd"] for record in records) == [[17], [41]]
    assert all(len(record["samples"]) == 8 for record in records)
    assert {str(record["values"].get("odd")) for record in records} == {"nan", "None"}


def test_the_second_look_leaves_no_trace(tmp_path: Path, fragile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout draws and BatchNorm counts in the pass that looks for the term; the run must not notice."""
    fragile.steps = (4, 11)
    more = ("stages.only.on_nonfinite=skip", "models.student.params.width=3")
    looked, _ = execute(tmp_path / "looked", *more)
    monkeypatch.setattr(Guard, "repeatable", False)
    blind, _ = execute(tmp_path / "blind", *more)
    one, two = (safetensors.torch.load_file(each / "student.safetensors") for each in (looked, blind))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert diverged(looked)[0]["terms"] != diverged(blind)[0]["terms"] == {}


def test_a_term_that_cannot_be_looked_at_alone_is_skipped_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Replayed, "steps", (4,))
    monkeypatch.setattr(Replayed, "gradient_only", True)
    replayed = "stages.only.losses.odd={type: replayed, inputs: {input: student, index: batch:index}}"
    _, messages = execute(tmp_path, replayed, "stages.only.on_nonfinite=skip", "stages.only.epochs=1")
    assert any("the losses are finite, but a gradient is not, on samples" in text for text in messages)


def test_a_gradient_is_kept_of_each_part_if_it_is_small() -> None:
    batch = {"input": torch.randn(4, 6), "target": torch.arange(4), "index": torch.arange(4)}
    text = """\
version: 1
models: {student: {}, large: {}}
stages:
  - name: only
    epochs: 1
    train: [student, large]
    losses:
      ce: cross_entropy
      near: {type: mse, inputs: {input: student, target: large}}
"""
    large = nn.Sequential(nn.Linear(6, 1000), nn.LayerNorm(1000), nn.Linear(1000, 5))
    models = {"student": nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5)), "large": large}
    checked = load_config(text, external_models=())
    objective = build_objective(checked, models=models, example_batch=batch)
    objective(batch).total.backward()
    student, other = GradientSamples(objective, Processes()).take()
    assert student is models["student"][0].weight.grad
    # 6000 numbers are too many; the next parameter's are 1000.
    assert other is large[0].bias.grad
    split = Processes()
    split.alike = False
    assert GradientSamples(objective, split).take() == []


def test_an_evaluation_that_is_not_finite_is_told_once(tmp_path: Path) -> None:
    blind = "stages.only.losses.odd={type: blind, inputs: {input: student}}"
    chosen = ("stages.only.best={metric: val/loss}", "stages.only.early_stop={metric: val/loss, patience: 1}")
    folder, messages = execute(tmp_path, blind, *chosen)
    found = json.loads((folder / "results.json").read_text())
    assert found["warnings"][0].startswith(
        "stage only: val/loss is not finite in epoch 1 of 3: term odd is nan on samples 0, 1, 2, 3, 4, 5, 6, 7, ..."
    )
    assert found["warnings"][0].endswith(
        "; while val/loss is not finite no epoch is the best; early_stop counts such an epoch as one without improvement"
    )
    assert found["warnings"][1:] == [
        "stage only: val/loss was finite in no epoch that counts, so the last one's weights are kept"
    ]
    assert "stage only ends early: val/loss has not improved for 1 epoch (it is nan)" in messages
    assert found["stages"][0]["best_epoch"] is None


def test_an_infinite_epoch_is_never_the_best() -> None:
    lowest, highest = Selection("m", "min"), Selection("m", "max")
    for value in (math.inf, -math.inf, math.nan):
        assert not lowest.update(0, {"m": value})
        assert not highest.update(0, {"m": value})
    assert lowest.update(1, {"m": 2.0})
    assert (lowest.best, lowest.waited) == (2.0, 0)


def test_a_large_buffer_that_is_infinite_from_the_start_can_be_skipped_over(tmp_path: Path, fragile: Any) -> None:
    fragile.steps = (4,)
    masked = "stages.only.losses.masked={type: masked, inputs: {input: student}}"
    _, messages = execute(tmp_path, masked, "stages.only.on_nonfinite=skip", "stages.only.epochs=1")
    # Its step cannot run once more, as not all of it is put back: the term is known, the sample is not looked for.
    assert any(": term odd is nan on samples " in text for text in messages)


def test_of_several_bad_batches_the_first_is_told() -> None:
    told: list[Any] = []
    mean = Mean(told.append)
    good, bad = torch.tensor(1.0), torch.tensor(math.nan)
    for origin, values in enumerate(({"a": good}, {"a": good, "b": bad}, {"a": bad})):
        mean.add(values, 1, origin=origin)
    mean.check()
    mean.compute()
    assert [each.origin for each in told] == [1, 1]


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
    found = "the gradient of term odd is not, on samples" if gradient_only else "term odd is nan on samples"
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


def test_a_buffer_in_whose_place_a_bad_step_put_another_comes_back(tmp_path: Path) -> None:
    folders = []
    for in_place in ("false", "true"):
        odd = f"{{type: averaging, params: {{in_place: {in_place}}}, inputs: {{input: student, index: batch:index}}}}"
        folder, messages = execute(
            tmp_path / in_place, f"stages.only.losses.odd={odd}", "stages.only.on_nonfinite={action: skip, limit: 3}"
        )
        # Once in each epoch, and no step after it for what it left.
        assert len([text for text in messages if "is skipped" in text]) == 3
        folders.append(folder)
    one, two = (safetensors.torch.load_file(each / "student.safetensors") for each in folders)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_too_many_skipped_steps_stop_the_run(tmp_path: Path, fragile: Any) -> None:
    fragile.steps = (4, 5, 6)
    with pytest.raises(RunError, match=r"in step 6 term odd is nan .* after 2 skipped steps\n.*diverged.json"):
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
    with pytest.raises(RunError, match="after 1 skipped step\n"):
        execute(tmp_path, policy)
    fragile.steps = (2,)
    folder, _ = execute(tmp_path, policy, resume=the_run(tmp_path))
    whole, _ = execute(tmp_path / "whole", policy)
    one, two = (safetensors.torch.load_file(each / "student.safetensors") for each in (folder, whole))
    assert all(torch.equal(one[name], two[name]) for name in one)
