"""State that torch writes and does not read again: refused before training, and never in a good checkpoint's place."""

from __future__ import annotations

import collections
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdcore.component import Input
from kdcore.config.config import Config
from kdcore.config.load import load_config
from kdcore.engine.checkpoint import UnreadableCheckpointError, read_state, save_checkpoint
from kdcore.engine.checkpoints import Checkpoints
from kdcore.engine.dry_run import dry_run
from kdcore.engine.run import run
from kdcore.errors import RunError, WiringError
from kdcore.pipeline.readable import unreadable
from kdcore.plugins import Registry

BASE = """\
version: 1
name: keeps
output_dir: {folder}
data:
  train: {{type: digits, params: {{split: train, samples_per_class: 2}}, batch_size: 10}}
models:
  student: {{type: digits_mlp, params: {{width: 4}}}}
stages:
  - name: only
    epochs: 3
    train: [student]
    losses: {{odd: keeping}}
    optimizer: {{type: SGD, params: {{lr: 0.1}}}}
"""


class Keeping(nn.Module):
    """Keeps something as extra state, from a chosen step on."""

    value: Any = None
    since = 0

    def __init__(self) -> None:
        super().__init__()
        self.kept: Any = {"counts": [1, 2.5]}

    def progress(self, step: int, total_steps: int, epoch: int) -> None:
        if step >= type(self).since:
            self.kept = {"counts": [1, type(self).value]}

    def get_extra_state(self) -> Any:
        return self.kept

    def set_extra_state(self, state: Any) -> None:
        self.kept = state

    def forward(self, input: Tensor) -> Tensor:
        return input.square().mean()


class FromTheStart(Keeping):
    def __init__(self) -> None:
        super().__init__()
        self.kept = {"counts": [1, type(self).value]}


class Model(nn.Module):
    """A model with extra state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def get_extra_state(self) -> Any:
        return {"calls": 3}

    def set_extra_state(self, state: Any) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x.flatten(1))
        return out


class Balancer(nn.Module):
    def __init__(self, terms: dict[str, float | None]) -> None:
        super().__init__()

    def get_extra_state(self) -> Any:
        return collections.deque([1.0])

    def set_extra_state(self, state: Any) -> None:
        pass

    def forward(self, terms: dict[str, Tensor]) -> Tensor:
        return torch.stack(list(terms.values())).sum()


class Criterion:
    """Scores weights, and counts with NumPy."""

    needs_gradients = False

    def score(self, name: str, weight: Tensor, blocks: Any) -> Tensor:
        return weight.abs()

    def state_dict(self) -> dict[str, Any]:
        return {"seen": np.int64(3)}

    def load_state_dict(self, state: Any) -> None:
        pass


def config(folder: Path, *overrides: str) -> tuple[Config, Registry]:
    registry = Registry.discover()
    registry.register("loss", "keeping", Keeping, inputs=[Input("input", default="student")])
    registry.register("loss", "from_the_start", FromTheStart, inputs=[Input("input", default="student")])
    registry.register("model", "with_state", Model)
    registry.register("balancer", "queueing", Balancer)
    registry.register("criterion", "counting", Criterion)
    return load_config(BASE.format(folder=folder), overrides=overrides, plugins=registry), registry


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> type[Keeping]:
    monkeypatch.setattr(Keeping, "value", np.float64(2.5))
    monkeypatch.setattr(Keeping, "since", 0)
    return Keeping


class Own:
    """A class of somebody's plugin."""


def holding_itself() -> list[Any]:
    found: list[Any] = [1]
    found.append(found)
    return found


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, True, None, "x", b"y", 2**80, 1j, (1, 2), {3, 4}]},
        {1: {("a", 2): torch.ones(2)}, "b": nn.Parameter(torch.ones(1))},
        collections.OrderedDict(a=torch.Size([2])),
        {"dtype": torch.float16, "device": torch.device("cpu"), "bytes": bytearray(b"x")},
        torch.ones(3).to_sparse(),
        collections.Counter("aab"),
        holding_itself(),
    ],
)
def test_what_torch_reads_back_passes(value: Any) -> None:
    assert list(unreadable(value, "state")) == []
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("value", "where", "found"),
    [
        ({"n": np.float64(1)}, "state['n']", "numpy.float64"),
        ([0, {"m": np.zeros(3)}], "state[1]['m']", "numpy.ndarray"),
        (({"a": collections.defaultdict(int)},), "state[0]['a']", "collections.defaultdict"),
        ({"d": collections.deque([1])}, "state['d']", "collections.deque"),
        ({"f": frozenset([1])}, "state['f']", "frozenset"),
        ({frozenset([1]): 2}, "the key frozenset({1}) of state", "frozenset"),
        ({"s": {Own}}, "an item of state['s']", "type"),
        ({"o": Own()}, "state['o']", f"{__name__}.Own"),
        ({"l": lambda: None}, "state['l']", "function"),
        (Path("x"), "state", "pathlib.PosixPath"),
    ],
)
def test_what_torch_does_not_read_back_is_named(value: Any, where: str, found: str) -> None:
    assert list(unreadable(value, "state")) == [(where, found)]


def test_a_type_that_somebody_has_allowed_passes() -> None:
    value = {"o": Own()}
    with torch.serialization.safe_globals([Own]):
        assert list(unreadable(value, "state")) == []
    assert list(unreadable(value, "state")) == [("state['o']", f"{__name__}.Own")]


def test_a_loss_that_could_not_be_read_back_is_refused_before_training(tmp_path: Path, keeping: Any) -> None:
    checked, registry = config(tmp_path, "stages.only.losses.odd=from_the_start")
    for act in (lambda: dry_run(checked), lambda: run(checked, quiet=True, registry=registry)):
        with pytest.raises(
            WiringError,
            match=r"stages.only.losses.odd: term 'odd' \(loss 'from_the_start' .*\) keeps what no checkpoint could give "
            r"back: losses.odd._extra_state\['counts'\]\[1\] is of type numpy.float64, and tensors, numbers, .* are "
            r"allowed\n.*get_extra_state\(\)",
        ):
            act()
    assert not (tmp_path / "keeps").exists()


def test_a_balancer_a_criterion_and_a_model_are_looked_at_too(tmp_path: Path) -> None:
    ce = "stages.only.losses.odd=cross_entropy"
    checked, _ = config(tmp_path, ce, "stages.only.balancer=queueing")
    with pytest.raises(WiringError, match=r"balancer 'queueing' .*balancer._extra_state is of type collections.deque"):
        dry_run(checked)
    pruning = "stages.only.pruning={criterion: counting, target_sparsity: 0.5}"
    checked, _ = config(tmp_path, ce, pruning)
    with pytest.raises(WiringError, match=r"criterion 'counting' .*state_dict\(\)\['seen'\] is of type numpy.int64"):
        dry_run(checked)
    checked, _ = config(tmp_path, ce, "models.student={type: with_state}")
    with pytest.raises(
        WiringError,
        match=r"model 'student' \(model 'with_state' .*weights file could not hold: .*of type dict(.|\n)*tensor",
    ):
        dry_run(checked)


def test_what_the_first_step_leaves_is_looked_at_before_the_second(tmp_path: Path, keeping: Any) -> None:
    checked, registry = config(tmp_path)
    with pytest.raises(WiringError, match=r"term 'odd' .* keeps what no checkpoint could give back"):
        run(checked, quiet=True, registry=registry)
    (folder,) = (tmp_path / "keeps").iterdir()
    assert not (folder / "metrics.jsonl").exists()


def test_a_run_whose_state_changes_its_type_keeps_its_good_checkpoint(tmp_path: Path, keeping: Any) -> None:
    keeping.since = 3  # in the second epoch of two steps
    checked, registry = config(tmp_path)
    with pytest.raises(
        RunError,
        match=r"checkpoints/only/epoch-00002\S+' is not written, because it could not be read back: "
        r"losses.odd._extra_state\['counts'\]\[1\] is of type numpy.float64(.|\n)*what was saved before is untouched",
    ):
        run(checked, quiet=True, registry=registry)
    (folder,) = (tmp_path / "keeps").iterdir()
    (kept,) = (folder / "checkpoints" / "only").glob("epoch-*")
    assert kept.name == "epoch-00001-step-000000002"
    keeping.value = 2.5
    run(checked, quiet=True, registry=registry, resume=folder)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3


def test_state_that_is_not_of_the_objective_is_looked_at_too(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last", {"w": torch.ones(2)}, {"epoch": 1})
    with pytest.raises(RunError, match=r"optimizer\['state'\]\[0\] is of type numpy.float64"):
        save_checkpoint(tmp_path / "last", {"w": torch.ones(2)}, {"optimizer": {"state": [np.float64(1)]}})
    assert read_state(tmp_path / "last")["epoch"] == 1


def unreadable_checkpoint(checkpoints: Checkpoints, epoch: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write one as a release did that did not look."""
    with monkeypatch.context() as patch:
        patch.setattr("kdcore.engine.checkpoint._check_readable", lambda *_: None)
        return checkpoints.save({"w": torch.ones(2)}, {"epoch": epoch, "step": epoch, "x": np.float64(1)}, None)


def test_an_unreadable_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, told = Checkpoints(tmp_path, keep=2), []
    good = checkpoints.save({"w": torch.ones(2)}, {"epoch": 1, "step": 1}, None)
    newer = unreadable_checkpoint(checkpoints, 2, monkeypatch)
    found = checkpoints.read_latest(told.append)
    assert found is not None
    assert found.folder == good
    (text,) = told
    assert f"{newer.name}' cannot be read, though it is whole: torch refuses numpy" in text
    assert text.endswith("in its state.pt; going on from the one before")
    # Kept, it would count as the newest, and what is saved next as beyond the limit.
    assert not newer.exists()


def test_an_unreadable_checkpoint_alone_is_an_error_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path / "only", keep=2)
    path = unreadable_checkpoint(checkpoints, 1, monkeypatch)
    with pytest.raises(UnreadableCheckpointError, match=rf"{path.name}' cannot be read(.|\n)*remove '{tmp_path}/only'"):
        checkpoints.read_latest(lambda text: None)
    assert path.is_dir()


def test_a_damaged_checkpoint_without_another_does_not_speak_of_one_before(tmp_path: Path) -> None:
    checkpoints, told = Checkpoints(tmp_path, keep=2), []
    for epoch in (1, 2):
        path = checkpoints.save({"w": torch.ones(2)}, {"epoch": epoch, "step": epoch}, None)
        (path / "state.pt").write_bytes(b"")
    assert checkpoints.read_latest(told.append) is None
    assert [text.partition("; ")[2] for text in told] == [
        "going on from the one before",
        "no other is left, so the stage begins anew",
    ]
