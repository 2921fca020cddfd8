"""Pruning inside a stage: the order of a step, what a run leaves behind, selection, resuming, several groups."""

from __future__ import annotations

import io
import json
import re
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import safetensors.torch
import torch
from rich.console import Console
from torch import Tensor, nn

from kdcore.component import Input
from kdcore.config.load import load_config
from kdcore.config.reader import read_text
from kdcore.engine.dry_run import dry_run
from kdcore.engine.interrupt import Interrupted
from kdcore.engine.progress import Progress
from kdcore.engine.run import run
from kdcore.errors import WiringError
from kdcore.plugins import Registry
from tests.engine import test_resume as resuming

BASE = """\
version: 1
name: pruned
output_dir: {folder}
data:
  train: {{type: digits, params: {{split: train, samples_per_class: 8}}, batch_size: 16, shuffle: true}}
  val: {{type: digits, params: {{split: val}}, batch_size: 360}}
  test: {{type: digits, params: {{split: test}}, batch_size: 359}}
models:
  teacher: {{type: digits_cnn, params: {{width: 4, depth: 2}}, weights: as_built}}
  student: {{type: digits_cnn, params: {{width: 4, depth: 2}}}}
stages:
  - name: only
    epochs: 4
    train: [student]
    losses:
      ce: cross_entropy
      kd: kd
    optimizer: {{type: SGD, params: {{lr: 0.1, momentum: 0.9}}}}
    pruning: {pruning}
"""

# 5 steps in each of the 4 epochs; the last masks are made in step 12, of the third epoch.
LINEAR = "{criterion: snip_momentum, target_sparsity: 0.75, schedule: {type: linear, start: 0, end: 12, every: 4}}"
LATER = """\
  - name: later
    epochs: 1
    train: [student]
    losses: {ce: cross_entropy}
    optimizer: {type: SGD, params: {lr: 0.1}}
"""


class Told(Progress):
    """Keeps what users are told, and calls a function after each step."""

    def __init__(self, after_step: Any = None) -> None:
        self.messages: list[str] = []
        self.after_step = after_step or (lambda: None)

    def message(self, text: str) -> None:
        self.messages.append(text)

    def step_ended(self, terms: Any) -> None:
        self.after_step()


class Watching:
    """Scores by magnitude, and keeps what it is shown."""

    needs_gradients = True
    gradients: ClassVar[list[Tensor]] = []
    scored: ClassVar[list[int]] = []

    def update(self, name: str, weight: Tensor, gradient: Tensor, blocks: Any) -> None:
        type(self).gradients.append(gradient.clone())

    def score(self, name: str, weight: Tensor, blocks: Any) -> Tensor:
        type(self).scored.append(len(type(self).gradients))
        return weight.abs()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass


class Breaking(nn.Module):
    """Is not a number in chosen steps."""

    steps: ClassVar[tuple[int, ...]] = ()
    training_only = True

    def __init__(self) -> None:
        super().__init__()
        self.now = -1

    def progress(self, step: int, total_steps: int, epoch: int) -> None:
        self.now = step

    def forward(self, input: Tensor) -> Tensor:
        return input.mean() * (float("nan") if self.now in type(self).steps else 0.0)


@pytest.fixture
def registry() -> Registry:
    found = Registry.discover()
    found.register("criterion", "watching", Watching)
    found.register("loss", "breaking", Breaking, inputs=[Input("input")])
    Watching.gradients, Watching.scored, Breaking.steps = [], [], ()
    return found


def config_of(folder: Path, pruning: str = LINEAR, *overrides: str, more: str = "", plugins: Any = None) -> Any:
    text = BASE.format(folder=folder, pruning=pruning) + more
    return load_config(text, overrides=overrides, plugins=plugins)


def weights(folder: Path, name: str = "student.safetensors") -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / name)


def zeros(folder: Path, layer: str, name: str = "student.safetensors") -> float:
    return float((weights(folder, name)[f"{layer}.weight"] == 0).double().mean())


def lines(folder: Path, stage: str = "only") -> list[dict[str, float]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["metrics"] for line in found if line["stage"] == stage]


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())  # type: ignore[no-any-return]


# What a run leaves behind


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    told = Told()
    config = config_of(tmp_path_factory.mktemp("finished"), LINEAR, "stages.only.best.metric=val/student/accuracy")
    return run(config, progress=told), told.messages


def test_the_weights_have_their_zeros_in_place(finished: tuple[Path, list[str]]) -> None:
    folder, _ = finished
    shares = {layer: zeros(folder, layer) for layer in ("block1.conv", "block2.conv")}
    sizes = {"block1.conv": 36, "block2.conv": 288}
    assert sum(shares[name] * sizes[name] for name in sizes) == 0.75 * 324
    assert zeros(folder, "fc") == 0
    told = results(folder)["stages"][0]["pruning"]
    assert told["sparsity"] == 0.75
    assert told["completed"] is True
    assert {name: each["sparsity"] for name, each in told["layers"].items()} == pytest.approx(shares)
    assert {name: each["weights"] for name, each in told["layers"].items()} == sizes


def test_the_metrics_tell_how_sparse_each_layer_is(finished: tuple[Path, list[str]]) -> None:
    folder, _ = finished
    shares = [line["sparsity"] for line in lines(folder)]
    # Linear over four prunings, the first of which removes nothing: in steps 4, 8 and 12.
    assert shares == [0.25, 0.5, 0.75, 0.75]
    last = lines(folder)[-1]
    assert (36 * last["sparsity/block1.conv"] + 288 * last["sparsity/block2.conv"]) / 324 == pytest.approx(0.75)
    (events,) = (folder / "tensorboard" / "only").iterdir()
    assert b"sparsity/block2.conv" in events.read_bytes()


def test_the_row_of_a_pruned_model_says_what_is_left_of_it(finished: tuple[Path, list[str]]) -> None:
    folder, _ = finished
    student, teacher = results(folder)["rows"]
    assert student["sparsity"] == 0.75
    assert student["nonzero_parameters"] == student["parameters"] - 243
    assert "sparsity" not in teacher
    page = (folder / "report.html").read_text()
    assert "Accuracy against sparsity" in page
    assert "Sparsity by layer" in page


def test_what_is_left_out_is_said(finished: tuple[Path, list[str]]) -> None:
    _, messages = finished
    assert any("fc" in text and "prune_classifier: true" in text for text in messages)


def test_a_teacher_that_is_not_trained_is_left_alone(finished: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, _ = finished
    again = run(config_of(tmp_path, "{target_sparsity: 0.0}"), quiet=True)
    rows = [next(row for row in results(each)["rows"] if row["model"] == "teacher") for each in (folder, again)]
    assert rows[0]["metrics"] == rows[1]["metrics"]


def test_the_criterions_version_is_part_of_what_a_run_depends_on(finished: tuple[Path, list[str]]) -> None:
    folder, _ = finished
    assert "kd-plugin-pruning" in json.loads((folder / "identity.json").read_text())["versions"]


def test_weights_without_a_gradient_are_passed_over_and_said(tmp_path: Path) -> None:
    told = Told()
    hint = (
        "stages.only.losses={hint: {type: mse, inputs: {input: student:block1, target: teacher:block1}}}",
        "stages.only.metrics={models: []}",
    )
    folder = run(config_of(tmp_path, LINEAR, *hint), progress=told)
    (said,) = [text for text in told.messages if "no gradient: block2.conv" in text]
    assert said.startswith("stage only: pruning by 'snip_momentum' passes over weights that have no gradient")
    assert zeros(folder, "block1.conv") == 0.75
    assert zeros(folder, "block2.conv") == 0


# The order of a step


def test_momentum_does_not_revive_what_is_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    seen: list[nn.Module] = []
    build = config_of(tmp_path).models["student"].part.registered.factory()
    monkeypatch.setattr(type(build()), "to", lambda self, *_: seen.append(self) or self)

    def after_step() -> None:
        convs = [each.weight for each in seen[-1].modules() if isinstance(each, nn.Conv2d)]
        shares.append(sum(int((each == 0).sum()) for each in convs) / sum(each.numel() for each in convs))

    run(config_of(tmp_path), progress=Told(after_step))
    assert shares == [0.0] * 4 + [0.25] * 4 + [0.5] * 4 + [0.75] * 8


def test_the_criterion_sees_the_whole_steps_gradient_before_it_is_clipped(tmp_path: Path, registry: Registry) -> None:
    found = []
    for overrides in (
        ["data.train.batch_size=16"],
        ["data.train.batch_size=16", "stages.only.clip_grad_norm=1e-6"],
        ["data.train.batch_size=8", "stages.only.accumulate=2"],
    ):
        Watching.gradients = []
        options = ["stages.only.epochs=1", "stages.only.steps_per_epoch=1", "data.train.shuffle=false", *overrides]
        options += [
            "models.student={type: digits_mlp, params: {width: 8}}",
            "models.teacher={type: digits_mlp, weights: as_built}",
        ]
        pruning = "{criterion: watching, target_sparsity: 0.5, schedule: one_shot}"
        run(config_of(tmp_path, pruning, *options, plugins=registry), quiet=True, registry=registry)
        found.append(Watching.gradients)
    whole, clipped, accumulated = found
    assert len(whole) == 2
    assert all(torch.equal(one, two) for one, two in zip(whole, clipped, strict=True))
    assert all(torch.allclose(one, two, atol=1e-7) for one, two in zip(whole, accumulated, strict=True))
    assert min(float(each.norm()) for each in whole) > 1e-4


def test_the_scores_include_the_step_of_the_pruning(tmp_path: Path, registry: Registry) -> None:
    pruning = "{criterion: watching, target_sparsity: 0.5, schedule: {type: one_shot, start: 2}}"
    run(config_of(tmp_path, pruning, plugins=registry), quiet=True, registry=registry)
    assert Watching.scored == [6, 6]  # two layers, three steps


def test_a_skipped_step_is_none_for_pruning(tmp_path: Path, registry: Registry) -> None:
    # Step 4 is due for a pruning and skipped: the next step is the fifth that counts.
    Breaking.steps = (4,)
    more = ("stages.only.losses.odd={type: breaking, inputs: {input: student}}", "stages.only.on_nonfinite=skip")
    folder = run(config_of(tmp_path, LINEAR, *more, plugins=registry), quiet=True, registry=registry)
    assert [line["sparsity"] for line in lines(folder)] == [0.0, 0.5, 0.75, 0.75]
    assert all(bool(each.isfinite().all()) for each in weights(folder).values())
    assert results(folder)["stages"][0]["pruning"]["completed"] is True


def test_a_criterion_sees_no_gradient_of_a_skipped_step(tmp_path: Path, registry: Registry) -> None:
    Breaking.steps = (0, 3)
    pruning = "{criterion: watching, target_sparsity: 0.5, schedule: {type: linear, end: 8, every: 4}}"
    more = ("stages.only.losses.odd={type: breaking, inputs: {input: student}}", "stages.only.on_nonfinite=skip")
    run(config_of(tmp_path, pruning, *more, plugins=registry), quiet=True, registry=registry)
    assert len(Watching.gradients) == 2 * 9
    assert all(bool(each.isfinite().all()) for each in Watching.gradients)


def test_a_schedule_that_skipped_steps_cut_short_is_a_warning(tmp_path: Path, registry: Registry) -> None:
    Breaking.steps = (7,)
    pruning = LINEAR.replace("end: 12", "end: 19").replace("every: 4", "every: 19")
    more = ("stages.only.losses.odd={type: breaking, inputs: {input: student}}", "stages.only.on_nonfinite=skip")
    folder = run(config_of(tmp_path, pruning, *more, plugins=registry), quiet=True, registry=registry)
    assert results(folder)["stages"][0]["pruning"]["completed"] is False
    assert results(folder)["warnings"][-1] == (
        "stage only: pruning is not complete, 0.00 % of the weights are zero: some of the stage's steps were skipped"
    )


# The best epoch


def test_an_epoch_counts_only_when_pruning_is_complete(finished: tuple[Path, list[str]]) -> None:
    folder, messages = finished
    assert "stage only: epochs count for best: from epoch 3 on, when pruning is complete" in messages
    assert results(folder)["stages"][0]["best_epoch"] in (2, 3)


def test_the_densest_epoch_is_not_the_best_one(tmp_path: Path) -> None:
    # Nothing but the mean of losses over rising rates gets worse and worse: the first epoch is the best by far.
    worse = ("stages.only.best.metric=val/loss", "stages.only.optimizer.params.lr=0.01",
             "stages.only.scheduler={type: ExponentialLR, params: {gamma: 12}}")  # fmt: skip
    sparse = run(config_of(tmp_path / "sparse", LINEAR, *worse), quiet=True)
    dense = run(config_of(tmp_path / "dense", "{target_sparsity: 0.0, schedule: one_shot}", *worse), quiet=True)
    losses = [line["val/loss"] for line in lines(sparse)]
    assert min(losses[:2]) < min(losses[2:])
    assert results(dense)["stages"][0]["best_epoch"] < 2
    best = results(sparse)["stages"][0]["best_epoch"]
    assert losses[best] == min(losses[2:])
    assert zeros(sparse, "block2.conv") > 0.7


def test_no_epoch_counts_towards_an_early_stop_before_that(tmp_path: Path) -> None:
    stop = "stages.only.early_stop={metric: train/loss, mode: max, patience: 1}"
    told = Told()
    folder = run(config_of(tmp_path, LINEAR, stop, "stages.only.epochs=8"), progress=told)
    # The second epoch would have ended it, since its loss is lower; the third is the first that counts.
    losses = [line["train/loss"] for line in lines(folder)]
    assert losses[1] < losses[0]
    assert len(losses) >= 4
    assert losses[-1] <= max(losses[2:-1])
    assert "stage only: epochs count for early_stop: from epoch 3 on, when pruning is complete" in told.messages


def test_a_schedule_that_is_complete_at_once_says_nothing_of_epochs(tmp_path: Path) -> None:
    told = Told()
    pruning = "{target_sparsity: 0.5, schedule: one_shot}"
    run(config_of(tmp_path, pruning, "stages.only.best.metric=val/loss"), progress=told)
    assert not [text for text in told.messages if "epochs count" in text]


# Resuming


PRUNED = (
    "stages.distill.pruning={criterion: snip_momentum, target_sparsity: 0.8, schedule: {type: linear, every: 2}}",
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(resuming.config_of(tmp_path_factory.mktemp("reference"), *PRUNED), quiet=True)


@pytest.mark.parametrize("point", [{"step": 5}, {"step": 8}, {"evaluation": 3}])
def test_interrupted_it_ends_with_the_same_weights(tmp_path: Path, reference: Path, point: dict[str, int]) -> None:
    stops = resuming.Stops(signal.SIGTERM, stage=2, **point)
    with pytest.raises(Interrupted):
        run(resuming.config_of(tmp_path, *PRUNED), progress=stops)
    folder = resuming.only_run(tmp_path)
    run(load_config(folder / "config.yaml"), quiet=True, resume=folder)
    resuming.assert_same(folder, reference)
    assert results(folder)["stages"] == results(reference)["stages"]
    shares = [line["sparsity"] for line in lines(folder, "distill")]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(0.8, abs=2e-3)


@pytest.mark.slow
def test_killed_at_random_events_it_ends_with_the_same_weights(tmp_path: Path, reference: Path) -> None:
    folder, kills = resuming.killed_until_done(tmp_path, PRUNED, 5)
    assert kills >= 5
    resuming.assert_same(folder, reference)


@pytest.mark.parametrize(
    "pruning",
    [
        "{criterion: magnitude, pattern: 2x1, target_sparsity: 0.5, masks: frozen}",
        pytest.param("{criterion: random, pattern: filter, target_sparsity: 0.5}", marks=pytest.mark.slow),
        "{criterion: snip_momentum_block, pattern: 4x1, target_sparsity: 0.5, scope: local, group_lasso: 1e-3}",
        pytest.param("{criterion: retrain_free, pattern: channelx1, target_sparsity: 0.5}", marks=pytest.mark.slow),
        "{criterion: snip, pattern: 1:3, target_sparsity: 0.33, dtype: weights}",
    ],
)
def test_every_kind_of_pruning_resumes(tmp_path: Path, pruning: str) -> None:
    whole = run(config_of(tmp_path / "whole", pruning, "checkpoints.every_steps=3"), quiet=True)
    with pytest.raises(Interrupted):
        run(config_of(tmp_path / "cut", pruning), progress=resuming.Stops(signal.SIGINT, stage=0, step=7))
    (cut,) = (tmp_path / "cut" / "pruned").iterdir()
    run(config_of(tmp_path / "cut", pruning), quiet=True, resume=cut)
    one, two = weights(whole), weights(cut)
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert lines(whole) == lines(cut)


def test_a_run_resumed_with_pruning_added_begins_it_from_there(tmp_path: Path) -> None:
    plain = BASE.replace("    pruning: {pruning}\n", "").format(folder=tmp_path)
    with pytest.raises(Interrupted):
        run(load_config(plain), progress=resuming.Stops(signal.SIGINT, stage=0, step=7))
    (cut,) = (tmp_path / "pruned").iterdir()
    run(config_of(tmp_path, LINEAR, "stages.only.epochs=6"), quiet=True, resume=cut, accept_changes=True)
    assert results(cut)["stages"][0]["pruning"]["sparsity"] == 0.75


# Groups, models, stages


def test_several_groups_prune_different_layers_of_one_stage(tmp_path: Path) -> None:
    pruning = """
      - {include: [student.block1], pattern: filter, target_sparsity: 0.5, schedule: one_shot}
      - {criterion: snip, include: [block2.*], pattern: 2x3, target_sparsity: 0.75, scope: local}
      - {layers: [Linear], pattern: 2:4, prune_classifier: true, target_sparsity: 0.5, max_sparsity: 0.5}
"""
    folder = run(config_of(tmp_path, pruning), quiet=True)
    found = weights(folder)
    dead = found["block1.conv.weight"].flatten(1).eq(0).all(1)
    assert int(dead.sum()) == 2
    assert bool(found["block1.bn.weight"][dead].eq(0).all())
    assert bool(found["block1.bn.bias"][dead].eq(0).all())
    assert zeros(folder, "block2.conv") == 0.75
    groups = found["fc.weight"].eq(0).unflatten(1, (-1, 4)).sum(-1)
    assert bool((groups == 2).all())
    assert {name for name in lines(folder)[-1] if name.startswith("sparsity/")} == {
        "sparsity/block1.conv", "sparsity/block2.conv", "sparsity/fc",
    }  # fmt: skip


def test_two_models_are_pruned_in_one_stage(tmp_path: Path) -> None:
    pruning = "[{model: teacher, target_sparsity: 0.25}, {model: student, target_sparsity: 0.75, pattern: 2x1}]"
    more = (
        "stages.only.train=[student, teacher]",
        "stages.only.losses.other={type: cross_entropy, inputs: {input: teacher}}",
    )
    folder = run(config_of(tmp_path, pruning, *more), quiet=True)
    shares = {row["model"]: row["sparsity"] for row in results(folder)["rows"]}
    assert shares == pytest.approx({"student": 0.75, "teacher": 0.25}, abs=0.01)
    assert "sparsity/teacher.block1.conv" in lines(folder)[-1]
    assert lines(folder)[-1]["sparsity"] == pytest.approx(0.5, abs=0.01)


def test_a_later_stage_keeps_the_zeros_where_it_says_so(tmp_path: Path) -> None:
    told = Told()
    locked = run(config_of(tmp_path, LINEAR, "stages.later.pruning={schedule: locked}", more=LATER), progress=told)
    before, after = (weights(locked, f"checkpoints/{name}/student.safetensors") for name in ("only", "later"))
    assert not torch.equal(before["block2.conv.weight"], after["block2.conv.weight"])
    for name in ("block1.conv.weight", "block2.conv.weight"):
        assert torch.equal(before[name] == 0, after[name] == 0)
    assert lines(locked, "later")[-1]["sparsity"] == 0.75
    assert results(locked)["warnings"] == []
    lost = run(config_of(tmp_path, LINEAR, more=LATER), quiet=True)
    (warning,) = results(lost)["warnings"]
    assert warning.startswith("stage later: 'student' was pruned in stage only, and this stage trains it without")
    assert zeros(lost, "block2.conv") == 0


def test_a_model_that_starts_anew_has_no_zeros_to_lose(tmp_path: Path) -> None:
    anew = run(config_of(tmp_path, LINEAR, "stages.later.start={student: initial}", more=LATER), quiet=True)
    assert results(anew)["warnings"] == []
    more = LATER + LATER.replace("later", "last").replace("train:", "start: {student: only}\n    train:")
    options = ("stages.later.start={student: initial}",)
    again = run(config_of(tmp_path, LINEAR, *options, more=more), quiet=True)
    assert ["stage last" in text for text in results(again)["warnings"]] == [True]


@pytest.mark.parametrize("options", [("stages.only.precision=bfloat16",), ("stages.only.accumulate=2",)])
def test_it_goes_with_other_ways_to_train(tmp_path: Path, options: tuple[str, ...]) -> None:
    pruning = "{criterion: snip_momentum, pattern: 4x1, target_sparsity: 0.75, schedule: {type: cubic, every: 1}}"
    folder = run(config_of(tmp_path, pruning, *options), quiet=True)
    assert results(folder)["stages"][0]["pruning"]["sparsity"] == pytest.approx(0.75, abs=4 / 324)
    blocks = weights(folder)["block2.conv.weight"].eq(0).permute(2, 3, 1, 0).unflatten(3, (-1, 4)).sum(-1)
    assert set(blocks.flatten().tolist()) <= {0, 4}


@pytest.mark.slow
def test_compiled_it_prunes_the_same(tmp_path: Path) -> None:
    pruning = "{criterion: magnitude, pattern: filter, target_sparsity: 0.5, schedule: one_shot}"
    plain, compiled = (
        run(config_of(tmp_path / str(each), pruning, f"stages.only.compile={str(each).lower()}"), quiet=True)
        for each in (False, True)
    )
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(compiled)[name], value, rtol=1e-3, atol=1e-4)
    assert zeros(compiled, "block2.conv") == zeros(plain, "block2.conv") > 0


# The rehearsal


def shown(config: Any) -> str:
    written = io.StringIO()
    dry_run(config, console=Console(file=written, width=200))
    return written.getvalue()


def test_a_dry_run_shows_what_would_be_pruned(tmp_path: Path) -> None:
    text = shown(config_of(tmp_path, LINEAR, "stages.only.best.metric=val/loss"))
    assert (
        "prunes 75.0 % of 324 weights of student by snip_momentum, global: linear, 4 times from step 0 to 12 of 20"
        in text
    )
    assert all(found in text for found in ("block1.conv", "4 x 1 x 3 x 3", "8 x 4 x 3 x 3", "0 % to 98 %", "1x1"))
    assert "not pruned: fc, makes the model's output" in text
    assert "epochs count for best: from epoch 3 on" in text


def test_a_dry_run_shows_which_layers_a_pattern_does_not_fit(tmp_path: Path) -> None:
    text = shown(config_of(tmp_path, "{pattern: 8x1, target_sparsity: 0.5, scope: local, schedule: one_shot}"))
    assert "prunes 50.0 % of 288 weights of student by magnitude, local: in step 0 of 20" in text
    assert "not pruned: block1.conv, 8x1 does not fit: 4 outputs are no multiple of 8" in text
    assert "not pruned: fc" in text
    assert any("block2.conv" in line and "50 %" in line for line in text.splitlines())


def test_a_dry_run_shows_what_goes_with_a_filter(tmp_path: Path) -> None:
    text = shown(config_of(tmp_path, "{pattern: filter, target_sparsity: 0.5}"))
    assert "block2.bn.weight, block2.bn.bias" in text
    assert "keeps the zeros" in shown(config_of(tmp_path, "{schedule: locked}"))


def test_a_rehearsal_leaves_no_trace(tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    dry_run(config_of(tmp_path, "{pattern: filter, target_sparsity: 0.5, schedule: one_shot}"))
    assert torch.equal(torch.get_rng_state(), before)
    runs = [
        weights(run(config_of(tmp_path / name, pruning), quiet=True))
        for name, pruning in (("none", "{target_sparsity: 0.0}"), ("again", "{pattern: filter, target_sparsity: 0.0}"))
    ]
    # Tracing where filters lead must not move batch statistics, random numbers or weights.
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())


def test_a_criterion_that_cannot_be_built_is_named_with_its_place(tmp_path: Path) -> None:
    def broken() -> None:
        raise KeyError("scores")

    registry = Registry.discover()
    registry.register("criterion", "broken", broken, schema={"type": "object"})
    config = config_of(tmp_path, "{criterion: broken, target_sparsity: 0.5}", plugins=registry)
    with pytest.raises(
        WiringError,
        match=r":\d+:\d+: stages.only.pruning.criterion: pruning criterion 'broken' .* could not be built: KeyError: 'scores'",
    ):
        dry_run(config)


def test_the_resolved_config_has_every_default(finished: tuple[Path, list[str]]) -> None:
    folder, _ = finished
    config = load_config(folder / "config.yaml")
    (group,) = [config.resolved["stages"][0]["pruning"]]
    assert group["criterion"] == {"type": "snip_momentum", "params": {"alpha": 0.9, "beta": 1.0}}
    assert group["model"] == "student"
    assert group["schedule"] == {"type": "linear", "start": 0, "end": 12, "every": 4, "unit": "step"}
    assert {"pattern", "reduce", "scope", "min_sparsity", "max_sparsity", "masks", "dtype", "layers"} <= group.keys()


def test_epochs_can_be_counted_instead_of_steps(tmp_path: Path) -> None:
    pruning = "{target_sparsity: 0.75, schedule: {type: linear, start: 1, end: 3, every: 1, unit: epoch}}"
    folder = run(config_of(tmp_path, pruning, "stages.only.epochs=5"), quiet=True)
    shares = [line["sparsity"] for line in lines(folder)]
    assert shares == pytest.approx([0, 0, 0.375, 0.75, 0.75], abs=0.01)
    assert all(one <= two for one, two in pairwise(shares))


# The guide


def guide(language: str) -> list[str]:
    text = (Path(__file__).parents[2] / "docs" / "pruning.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_guides_loop_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = guide("python")
    names: dict[str, Any] = {}
    exec(compile(code, "pruning.md", "exec"), names)
    assert "0.75" in capsys.readouterr().out
    assert float((names["model"][0].weight == 0).float().mean()) == 0.75


def test_the_guides_configs_are_right(tmp_path: Path) -> None:
    stage, groups, schedule = (read_text(text).data for text in guide("yaml"))
    found = [stage["stages"][0]["pruning"], groups["pruning"], {"target_sparsity": 0.5, **schedule}]
    for pruning in found:
        assert load_config(BASE.format(folder=tmp_path, pruning=json.dumps(pruning))).stages[0].pruning
