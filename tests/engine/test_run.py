"""Whole runs on tiny budgets: determinism, selection, early stopping, starts, hooks, folders."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from kdcore.config.load import load_config
from kdcore.engine.dry_run import dry_run
from kdcore.engine.run import run
from kdcore.engine.selection import Selection
from kdcore.errors import RunError, WiringError
from kdcore.hookspecs import hookimpl
from kdcore.plugins import Registry

BASE = """\
version: 1
name: tiny
output_dir: {folder}
data:
  train: {{type: digits, params: {{split: train, samples_per_class: 8, augment: true}}, batch_size: 32, shuffle: true}}
  val: {{type: digits, params: {{split: val}}, batch_size: 256}}
  test: {{type: digits, params: {{split: test}}, batch_size: 256}}
models:
  teacher: {{type: digits_mlp, params: {{width: 32, dropout: 0.2}}}}
  student: {{type: digits_mlp, params: {{width: 8, dropout: 0.2}}}}
stages:
  - name: teach
    epochs: 2
    train: [teacher]
    losses:
      ce: {{type: cross_entropy, inputs: {{input: teacher}}}}
    optimizer: {{type: SGD, params: {{lr: 0.1, momentum: 0.9}}}}
  - name: distill
    epochs: 3
    train: [student]
    losses:
      ce: {{type: cross_entropy, weight: 0.1}}
      kd: {{type: kd, weight: 0.9}}
    optimizer: {{type: SGD, params: {{lr: 0.1, momentum: 0.9}}}}
    scheduler: {{type: CosineAnnealingLR, interval: step}}
"""


def execute(tmp_path: Path, *overrides: str, text: str = BASE, plugins: Registry | None = None) -> Path:
    config = load_config(text.format(folder=tmp_path), overrides=overrides)
    return run(config, quiet=True, registry=plugins)


def weights(folder: Path, name: str) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / f"{name}.safetensors")


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, two[key]) for key, value in one.items())


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())  # type: ignore[no-any-return]


def test_a_run_leaves_a_complete_folder(tmp_path: Path) -> None:
    folder = execute(tmp_path)
    assert {each.name for each in folder.iterdir()} == {
        ".lock", "config.yaml", "environment.json", "identity.json", "metrics.jsonl", "results.json", "report.html",
        "tensorboard", "checkpoints", "student.safetensors", "teacher.safetensors",
    }  # fmt: skip
    found = lines(folder)
    assert [(line["stage"], line["epoch"]) for line in found] == [
        ("teach", 0),
        ("teach", 1),
        *(("distill", i) for i in range(3)),
    ]
    assert set(found[-1]["metrics"]) == {
        *(f"{split}/{name}" for split in ("train", "val") for name in ("loss", "losses/ce", "losses/kd", "student/accuracy"))
    }  # fmt: skip
    assert all(math.isfinite(value) for line in found for value in line["metrics"].values())
    last = found[-1]["metrics"]
    assert last["val/loss"] == pytest.approx(0.1 * last["val/losses/ce"] + 0.9 * last["val/losses/kd"], rel=1e-5)
    told = results(folder)
    assert told["status"] == "completed"
    assert [(row["stage"], row["model"]) for row in told["rows"]] == [("teach", "teacher"), ("distill", "student")]
    row = told["rows"][1]
    count = sum(row["per_class"]["count"])
    hits = sum(a * c for a, c in zip(row["per_class"]["accuracy"], row["per_class"]["count"], strict=True))
    assert row["metrics"]["accuracy"] == pytest.approx(hits / count)
    assert row["parameters"] == sum(value.numel() for value in weights(folder, "student").values())
    environment = json.loads((folder / "environment.json").read_text())
    assert "kd-plugin-kd" in {each["distribution"] for each in environment["plugins"]}
    assert list((folder / "tensorboard").iterdir())


def test_the_resolved_config_reproduces_the_run_bit_for_bit(tmp_path: Path) -> None:
    first = execute(tmp_path)
    torch.manual_seed(123)
    again = run(load_config(first / "config.yaml"), quiet=True)
    assert same(weights(first, "student"), weights(again, "student"))
    assert [line["metrics"] for line in lines(first)] == [line["metrics"] for line in lines(again)]
    other = execute(tmp_path, "seed=1")
    assert not same(weights(first, "student"), weights(other, "student"))


def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    folders = [execute(tmp_path, "stages.teach.epochs=1", f"data.train.num_workers={workers}") for workers in (0, 1)]
    assert same(weights(folders[0], "student"), weights(folders[1], "student"))


def test_validation_changes_nothing_that_is_trained(tmp_path: Path) -> None:
    with_val, without = (
        execute(tmp_path),
        execute(tmp_path, "stages.teach.data={val: null}", "stages.distill.data={val: null}"),
    )
    assert same(weights(with_val, "student"), weights(without, "student"))
    assert "val/loss" not in lines(without)[-1]["metrics"]


def test_a_stage_before_changes_nothing_but_weights(tmp_path: Path) -> None:
    """Randomness belongs to a stage: teaching longer in vain (at a rate of 0) changes no later stage."""
    folders = [
        execute(tmp_path, "stages.teach.optimizer.params.lr=0.0", f"stages.teach.epochs={epochs}") for epochs in (1, 2)
    ]
    assert same(weights(folders[0], "student"), weights(folders[1], "student"))


def test_the_frozen_teacher_is_what_its_own_stage_left(tmp_path: Path) -> None:
    folder = execute(tmp_path)
    kept = safetensors.torch.load_file(folder / "checkpoints" / "teach" / "teacher.safetensors")
    assert same(kept, weights(folder, "teacher"))


def test_the_best_epoch_is_kept_and_said(tmp_path: Path) -> None:
    """A rate that explodes makes a late epoch worse, so keeping the last would show."""
    overrides = ("stages.distill.best={metric: val/loss}", "stages.distill.epochs=4", "stages.distill.scheduler={type: StepLR, params: {step_size: 2, gamma: 1000.0}}")  # fmt: skip
    folder = execute(tmp_path, *overrides)
    losses = [line["metrics"]["val/loss"] for line in lines(folder) if line["stage"] == "distill"]
    summary = results(folder)["stages"][1]
    finite = [value if value is not None else math.inf for value in losses]
    assert summary["best_epoch"] == finite.index(min(finite)) < 3
    assert summary["selected_by"] == "val/loss"
    checkpoints = folder / "checkpoints" / "distill"
    (best_folder,) = checkpoints.glob("best-*")
    assert best_folder.name == f"best-epoch-{summary['best_epoch']:05d}"
    best = safetensors.torch.load_file(best_folder / "objective.safetensors")
    final = weights(folder, "student")
    assert all(torch.equal(final[key.removeprefix("models.student.")], value) for key, value in best.items())
    last = safetensors.torch.load_file(max(checkpoints.glob("epoch-*")) / "objective.safetensors")
    assert not same(best, last)


def test_a_stage_stops_early(tmp_path: Path) -> None:
    folder = execute(tmp_path, "stages.distill.epochs=9", "stages.distill.optimizer.params.lr=0.0", "stages.distill.early_stop={metric: val/loss, patience: 2}")  # fmt: skip
    assert [line["epoch"] for line in lines(folder) if line["stage"] == "distill"] == [0, 1, 2]
    assert results(folder)["stages"][1]["epochs"] == 3
    assert results(folder)["stages"][1]["planned_epochs"] == 9


def test_selection_ignores_nan_and_small_changes() -> None:
    chosen = Selection("m", "max", min_delta=0.1)
    assert chosen.update(0, {"m": 0.5})
    assert not chosen.update(1, {"m": 0.55})
    assert not chosen.update(2, {"m": math.nan})
    assert chosen.waited == 2
    assert chosen.update(3, {"m": 0.7})
    assert (chosen.best, chosen.best_epoch, chosen.waited) == (0.7, 3, 0)
    nothing = Selection("m", "min")
    assert not nothing.update(0, {"m": math.nan})
    assert nothing.best_epoch is None


def test_a_stage_can_start_from_initial_or_another_stage(tmp_path: Path) -> None:
    extra = """\
  - name: again
    epochs: 1
    train: [student]
    start: {{student: {start}}}
    losses: {{ce: cross_entropy}}
    optimizer: {{type: SGD, params: {{lr: 0.0}}}}
"""
    folder = execute(tmp_path, text=BASE + extra.replace("{start}", "initial"))
    initial = safetensors.torch.load_file(folder / "checkpoints" / "initial" / "student.safetensors")
    assert same(initial, weights(folder, "student"))
    trained = safetensors.torch.load_file(folder / "checkpoints" / "distill" / "student.safetensors")
    assert not same(initial, trained)
    longer = BASE + extra.replace("{start}", "initial") + extra.replace("{start}", "distill").replace("again", "third")
    folder = execute(tmp_path, text=longer)
    assert same(
        safetensors.torch.load_file(folder / "checkpoints" / "distill" / "student.safetensors"),
        weights(folder, "student"),
    )


def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path: Path) -> None:
    """Without dropout and shuffling, 27 + 27 + 26 samples are the same step as 80."""
    plain = ("data.train.shuffle=false", "data.train.params.augment=false", "models.student.params.dropout=0.0", "stages.distill.epochs=2", "stages.distill.scheduler={type: ConstantLR}")  # fmt: skip
    folders = [
        execute(tmp_path, *plain, "data.train.batch_size=80", "stages.teach.optimizer.params.lr=0.0"),
        execute(tmp_path, *plain, "data.train.batch_size=27", "stages.distill.accumulate=3", "stages.teach.optimizer.params.lr=0.0"),
    ]  # fmt: skip
    for key, value in weights(folders[0], "student").items():
        torch.testing.assert_close(weights(folders[1], "student")[key], value, rtol=1e-4, atol=1e-6)


def test_steps_per_epoch_ends_an_epoch(tmp_path: Path) -> None:
    folder = execute(tmp_path, "stages.distill.steps_per_epoch=2")
    assert [line["step"] for line in lines(folder) if line["stage"] == "distill"] == [2, 4, 6]


def test_bfloat16_and_clipping_train(tmp_path: Path) -> None:
    folder = execute(tmp_path, "stages.distill.precision=bfloat16", "stages.distill.clip_grad_norm=0.5")
    assert all(value.dtype is torch.float32 for value in weights(folder, "student").values())
    plain = execute(tmp_path)
    assert not same(weights(plain, "student"), weights(folder, "student"))


def test_lifecycle_hooks_are_called_and_cannot_end_a_run(tmp_path: Path) -> None:
    calls: list[tuple[str, Any]] = []

    class Watcher:
        @hookimpl
        def run_started(self, folder: Path, config: dict[str, Any]) -> None:
            calls.append(("started", config["name"]))

        @hookimpl
        def epoch_ended(self, stage: str, epoch: int, metrics: dict[str, float]) -> None:
            calls.append((stage, epoch))
            assert "train/loss" in metrics
            raise ValueError("a watcher's own mistake")

        @hookimpl
        def run_ended(self, folder: Path, status: str) -> None:
            assert (folder / "report.html").is_file()
            calls.append(("ended", status))

    plugins = Registry.discover()
    plugins.manager.register(Watcher())
    execute(tmp_path, plugins=plugins)
    assert calls == [
        ("started", "tiny"),
        ("teach", 0),
        ("teach", 1),
        ("distill", 0),
        ("distill", 1),
        ("distill", 2),
        ("ended", "completed"),
    ]


def test_an_interrupted_run_keeps_what_was_done(tmp_path: Path) -> None:
    class Breaker:
        @hookimpl
        def epoch_ended(self, stage: str, epoch: int) -> None:
            if stage == "distill" and epoch == 1:
                raise KeyboardInterrupt

    plugins = Registry.discover()
    plugins.manager.register(Breaker())
    with pytest.raises(KeyboardInterrupt):
        execute(tmp_path, plugins=plugins)
    (folder,) = (tmp_path / "tiny").iterdir()
    assert results(folder)["status"] == "interrupted"
    assert [row["stage"] for row in results(folder)["rows"]] == ["teach"]
    assert (folder / "report.html").is_file()
    assert [each.name for each in (folder / "checkpoints" / "distill").iterdir()] == ["epoch-00001-step-000000003"]


def test_a_failing_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*args: object, **options: object) -> None:
        raise WiringError("the optimizer is gone")

    monkeypatch.setattr("kdcore.engine.trainer.Trainer.epoch", explode)
    with pytest.raises(WiringError, match="the optimizer is gone"):
        execute(tmp_path)
    (folder,) = (tmp_path / "tiny").iterdir()
    assert results(folder)["status"] == "failed"


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    first, second = execute(tmp_path), execute(tmp_path)
    assert first != second


def test_an_output_dir_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be made"):
        execute(tmp_path, f"output_dir={tmp_path}/file")


def test_a_mistake_in_the_last_stage_shows_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="has no module 'nowhere'"):
        execute(tmp_path, "stages.distill.losses.l={type: mse, inputs: {input: 'student:nowhere', target: teacher}}")
    assert not list(tmp_path.glob("tiny/*/metrics.jsonl"))


def test_a_dry_run_reports_terms_and_changes_nothing(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    reports = dry_run(load_config(BASE.format(folder=tmp_path)))
    assert torch.equal(torch.get_rng_state(), state)
    assert [report.stage for report in reports] == ["teach", "distill"]
    assert [term.name for term in reports[1].terms] == ["ce", "kd"]
    assert all(term.value > 0 and term.gradient_norm > 0 for term in reports[1].terms)
    assert reports[1].trainable.keys() == {"student"}
    assert reports[1].frozen == ["teacher"]
    assert not list(tmp_path.iterdir())


def test_hooks_that_draw_random_numbers_change_nothing(tmp_path: Path) -> None:
    class Draws:
        @hookimpl
        def epoch_ended(self) -> None:
            torch.rand(3)

    plugins = Registry.discover()
    plugins.manager.register(Draws())
    assert same(weights(execute(tmp_path), "student"), weights(execute(tmp_path, plugins=plugins), "student"))


def test_one_failing_hook_does_not_silence_the_others(tmp_path: Path) -> None:
    calls = []

    class Fails:
        @hookimpl(tryfirst=True)
        def run_ended(self) -> None:
            raise ValueError

    class Counts:
        @hookimpl(trylast=True)
        def run_ended(self, status: str) -> None:
            calls.append(status)

    plugins = Registry.discover()
    plugins.manager.register(Fails())
    plugins.manager.register(Counts())
    execute(tmp_path, "stages.teach.epochs=1", "stages.distill.epochs=1", plugins=plugins)
    assert calls == ["completed"]


def test_starting_from_a_model_of_another_shape_shows_before_training(tmp_path: Path) -> None:
    with pytest.raises(WiringError, match="'student' cannot start from 'teacher': they differ in"):
        execute(tmp_path, "stages.distill.start={student: {stage: teach, model: teacher}}")
    assert not list(tmp_path.glob("tiny/*/metrics.jsonl"))


def test_a_teacher_reset_to_random_weights_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WiringError, match=r"model 'teacher' is frozen in stage 'distill'.*it would be random"):
        execute(tmp_path, "stages.distill.start={teacher: initial}")


def test_a_term_of_training_only_is_said_not_to_be_evaluated(tmp_path: Path) -> None:
    from torch import nn

    class Bank(nn.Module):
        training_only = True

        def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
            assert self.training
            return (student - teacher.detach()).square().mean()

    plugins = Registry.discover()
    plugins.register("loss", "bank", Bank)
    config = load_config(BASE.format(folder=tmp_path), overrides=["stages.distill.losses.b=bank"], plugins=plugins)
    folder = run(config, quiet=True)
    metrics = lines(folder)[-1]["metrics"]
    assert "train/losses/b" in metrics
    assert "val/losses/b" not in metrics
    assert results(folder)["warnings"] == ["stage distill: not evaluated, because they exist in training only: b"]


def test_the_test_split_is_measured_at_the_end_and_on_demand_after_each_epoch(tmp_path: Path) -> None:
    folder = execute(tmp_path, "stages.distill.metrics={splits: [val, test]}")
    found = lines(folder)
    assert not any(name.startswith("test/") for name in found[0]["metrics"])
    assert {"test/loss", "test/losses/kd", "test/student/accuracy"} <= found[-1]["metrics"].keys()
    tested = results(folder)["stages"][1]["test"]
    assert tested["test/losses/kd"] == pytest.approx(found[-1]["metrics"]["test/losses/kd"])
    assert results(folder)["rows"][1]["metrics"]["accuracy"] == tested["test/student/accuracy"]


def test_a_stage_whose_terms_exist_in_training_only_has_no_total_elsewhere(tmp_path: Path) -> None:
    class Private(torch.nn.Module):
        training_only = True

        def forward(self, student: Tensor) -> Tensor:
            return student.square().mean()

    plugins = Registry.discover()
    plugins.register("loss", "private", Private)
    text = BASE.replace(
        "      ce: {{type: cross_entropy, weight: 0.1}}\n      kd: {{type: kd, weight: 0.9}}\n",
        "      own: {{type: private, inputs: {{student: student}}}}\n",
    )
    folder = run(load_config(text.format(folder=tmp_path), plugins=plugins), quiet=True, registry=plugins)
    last = lines(folder)[-1]["metrics"]
    assert last["train/losses/own"] > 0
    assert last["val/loss"] is None
    assert 0 <= last["val/student/accuracy"] <= 1
    assert "val/losses/own" not in last
