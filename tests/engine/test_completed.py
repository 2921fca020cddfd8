"""Completed stages whose results or weights are damaged, and runs that cannot say what they depended on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from kdcore.config.load import load_config
from kdcore.engine.folder import RunFolder
from kdcore.engine.progress import Progress
from kdcore.engine.run import run
from kdcore.errors import RunError

BASE = """\
version: 1
name: three
output_dir: {folder}
data:
  train: {{type: digits, params: {{split: train, samples_per_class: 3, augment: true}}, batch_size: 10, shuffle: true}}
  val: {{type: digits, params: {{split: val}}, batch_size: 256}}
models:
  teacher: {{type: digits_mlp, params: {{width: 8}}}}
  student: {{type: digits_mlp, params: {{width: 4, dropout: 0.2}}}}
stages:
  - name: teach
    epochs: 3
    train: [teacher]
    losses: {{ce: {{type: cross_entropy, inputs: {{input: teacher}}}}}}
    optimizer: {{type: SGD, params: {{lr: 0.1, momentum: 0.9}}}}
    best: {{metric: val/loss}}
  - name: distill
    epochs: 2
    train: [student]
    losses: {{kd: kd}}
    optimizer: {{type: SGD, params: {{lr: 0.1}}}}
  - name: tune
    epochs: 1
    train: [student]
    losses: {{ce: cross_entropy}}
    optimizer: {{type: SGD, params: {{lr: 0.1}}}}
"""


def config_of(folder: Path, *overrides: str) -> Any:
    return load_config(BASE.format(folder=folder), overrides=overrides)


class Heard(Progress):
    """Keeps what is told, and which stages are trained."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.stages: list[int] = []
        self.epochs = 0

    def message(self, text: str) -> None:
        self.messages.append(text)

    def stage_started(self, index: int) -> None:
        self.stages.append(index)

    def epoch_ended(self, *_: Any) -> None:
        self.epochs += 1


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(config_of(tmp_path_factory.mktemp("reference")), quiet=True)


@pytest.fixture
def folder(reference: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reference, tmp_path / "copy"))


def resumed(folder: Path, *overrides: str, accept: bool = False) -> Heard:
    heard = Heard()
    run(config_of(folder.parent, *overrides), progress=heard, resume=folder, accept_changes=accept)
    return heard


def assert_same(folder: Path, reference: Path) -> None:
    files = {each.relative_to(reference) for each in reference.rglob("*.safetensors") if "epoch-" not in str(each)}
    assert {each.relative_to(folder) for each in folder.rglob("*.safetensors") if "epoch-" not in str(each)} == files
    for file in files:
        one, two = (safetensors.torch.load_file(each / file) for each in (folder, reference))
        assert all(torch.equal(one[name], two[name]) for name in two), file
    assert lines(folder) == lines(reference)
    results = json.loads((folder / "results.json").read_text())
    assert results["status"] == "completed"
    assert [each["name"] for each in results["stages"]] == ["teach", "distill", "tune"]


def lines(folder: Path) -> list[str]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [json.dumps({**line, "seconds": 0, "epochs": 0}, sort_keys=True) for line in found]


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:40])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 0x01
    file.write_bytes(content)


def foreign(file: Path) -> None:
    file.write_text('{"summary": {}}')


@pytest.mark.parametrize(
    ("stage", "name", "damage", "said"),
    [
        ("teach", "result.json", truncated, "result.json' is damaged: "),
        ("distill", "result.json", foreign, "result.json' is damaged: it holds no result of a stage"),
        ("teach", "teacher.safetensors", Path.unlink, "there is no weights file"),
        ("distill", "student.safetensors", truncated, "cannot be read as weights"),
        ("teach", "teacher.safetensors", flipped, "does not hold what was written"),
    ],
)
def test_a_damaged_stage_is_completed_from_its_last_checkpoint(
    folder: Path, reference: Path, stage: str, name: str, damage: Callable[[Path], None], said: str
) -> None:
    damage(folder / "checkpoints" / stage / name)
    heard = resumed(folder)
    assert any(
        said in text and f"stage {stage} counts as not completed and goes on from its latest checkpoint" in text
        for text in heard.messages
    )
    assert f"stage {stage} ends with the weights that it had: what came after it stays" in heard.messages
    assert (heard.stages, heard.epochs) == ([["teach", "distill"].index(stage)], 0)
    assert_same(folder, reference)


@pytest.mark.parametrize("name", ["result.json", "teacher.safetensors"])
def test_without_checkpoints_it_is_trained_again_and_what_came_after_it_stays(
    folder: Path, reference: Path, name: str
) -> None:
    for each in (folder / "checkpoints" / "teach").glob("*epoch-*"):
        shutil.rmtree(each)
    truncated(folder / "checkpoints" / "teach" / name)
    heard = resumed(folder)
    assert any("stage teach counts as not completed and is trained again" in text for text in heard.messages)
    assert (heard.stages, heard.epochs) == ([0], 3)
    assert_same(folder, reference)


def test_what_came_after_other_weights_is_trained_again(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / "checkpoints" / "teach")
    heard = resumed(folder, "stages.teach.optimizer.params.lr=0.01", accept=True)
    text = "stage teach may have ended with other weights before, so what came after it is trained again: distill, tune"
    assert text in heard.messages
    assert heard.stages == [0, 1, 2]
    anew = run(config_of(tmp_path / "anew", "stages.teach.optimizer.params.lr=0.01"), quiet=True)
    assert_same(folder, anew)


def test_later_stages_wait_for_the_end_of_a_longer_one(folder: Path, tmp_path: Path) -> None:
    class Ends(Heard):
        def epoch_ended(self, *_: Any) -> None:
            assert (folder / "checkpoints" / "tune" / "result.json").exists()
            raise RunError("on purpose")

    longer = config_of(tmp_path, "stages.teach.epochs=5")
    with pytest.raises(RunError, match="on purpose"):
        run(longer, progress=Ends(), resume=folder, accept_changes=True)
    heard = resumed(folder, "stages.teach.epochs=5")
    assert heard.stages[0] == 0
    anew = run(config_of(tmp_path / "anew", "stages.teach.epochs=5"), quiet=True)
    assert_same(folder, anew)


def test_lost_final_weights_are_written_again(folder: Path, reference: Path) -> None:
    (folder / "student.safetensors").unlink()
    truncated(folder / "teacher.safetensors")
    assert resumed(folder).stages == []
    assert_same(folder, reference)


def test_weights_that_do_not_fit_are_said(folder: Path) -> None:
    with pytest.raises(RunError, match=r"stage 'teach' was completed, does not fit the 'teacher' of this config"):
        resumed(folder, "models.teacher.params.width=9", accept=True)


@pytest.mark.parametrize(
    ("damage", "said"),
    [(Path.unlink, r"there is no '\S+identity\.json'"), (truncated, r"identity\.json' is damaged: ")],
)
def test_without_its_identity_a_run_is_resumed_only_if_changes_are_accepted(
    folder: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(folder / "identity.json")
    with pytest.raises(
        RunError, match=rf"it cannot be told whether anything has changed: .*{said}(.|\n)*accept_changes=True"
    ):
        resumed(folder)
    assert any("resumed although it cannot be told" in text for text in resumed(folder, accept=True).messages)
    assert not any("resumed although" in text for text in resumed(folder).messages)


def test_epochs_that_come_again_are_forgotten_wherever_they_stand(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for stage, epoch in (("a", 0), ("a", 1), ("b", 0), ("a", 2)):
        folder.append_metrics({"stage": stage, "epoch": epoch})
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"stage": "b", "ep')
    folder.forget_epochs("a", 1)
    kept = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert kept == [{"stage": "a", "epoch": 0}, {"stage": "b", "epoch": 0}]
