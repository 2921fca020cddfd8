"""`kd export` as a user meets it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import kdcore
from kdcore.cli.main import main

CONFIG = """\
version: 1
name: tiny
output_dir: OUT
data:
  train: {type: digits, params: {split: train}, batch_size: 64, shuffle: true}
  val: {type: digits, params: {split: val}, batch_size: 64}
models:
  teacher: {type: digits_mlp, params: {width: 8}, weights: as_built}
  student: {type: digits_cnn, params: {width: 4}}
  plain: {type: digits_mlp, params: {width: 64}}
  joined: {type: digits_mlp, inputs: [teacher:flatten@input]}
stages:
  - {name: first, epochs: 1, steps_per_epoch: 1, train: [student], losses: {kd: kd}, optimizer: SGD}
  - name: second
    epochs: 1
    steps_per_epoch: 1
    train: [plain, joined]
    losses:
      a: {type: cross_entropy, inputs: {input: plain}}
      b: {type: cross_entropy, inputs: {input: joined}}
    optimizer: SGD
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run whose student has filters of zeros, and whose plain model is 2:4 in one layer."""
    folder = tmp_path_factory.mktemp("run")
    config = folder / "kd.yaml"
    config.write_text(CONFIG.replace("OUT", str(folder / "runs")))
    made = kdcore.run(kdcore.load_config(config), quiet=True)
    student = load_file(made / "student.safetensors")
    for name, indices in (("block1", [0]), ("block2", [2, 5]), ("block3", list(range(12)))):
        for key in ("conv.weight", "bn.weight", "bn.bias"):
            student[f"{name}.{key}"][indices] = 0
    save_file(student, made / "student.safetensors")
    plain = load_file(made / "plain.safetensors")
    plain["layer2.linear.weight"].view(64, -1, 4)[..., :2] = 0
    save_file(plain, made / "plain.safetensors")
    return made


@pytest.fixture
def mine(run: Path, tmp_path: Path) -> Path:
    """Return a copy of the run that a test may damage."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def kd(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["export", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_a_compact_student(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small"
    code, out, err = kd(capsys, run, "--compact", "-o", small)
    assert (code, err) == (0, "")
    rows = {line.split("  ")[0]: line.split() for line in out.splitlines() if line}
    assert rows["parameters"][1:3] == ["1,702", "481"], out
    assert rows["parameters"][-2:] == ["28", "%"]
    assert {"weights file", "FLOPs of a sample", "latency of a sample, ms"} <= rows.keys()
    assert rows["block3.conv"][1:] == ["inputs", "8", "6"]
    assert "the largest difference of outputs on 4 batches is " in out
    assert f"written to {small}" in out
    model = kdcore.load_compact(small)
    assert sum(each.numel() for each in model.parameters()) == 481
    assert json.loads((small / "compact.json").read_text())["model"]["type"] == "digits_cnn"


def test_the_compact_student_yields_what_the_masked_one_does(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kd(capsys, run, "--compact", "-o", tmp_path / "small")[0] == 0
    masked = kdcore.create("model", "digits_cnn", width=4).eval()
    masked.load_state_dict(load_file(run / "student.safetensors"))
    digits = kdcore.create("dataset", "digits", split="test")
    images = torch.stack([digits[index]["input"] for index in range(len(digits))])
    with torch.no_grad():
        expected, found = masked(images), kdcore.load_compact(tmp_path / "small")(images)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_stage_s_own_weights_have_no_zeros(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small"
    code, out, err = kd(capsys, run, "--compact", "--stage", "first", "-o", small)
    assert (code, out) == (1, "")
    assert err.startswith("kd: nothing can be removed: 0 % of the weights are 0")
    assert not small.exists()


def test_two_to_four_without_the_device(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    folder = tmp_path / "sparse"
    code, out, err = kd(capsys, run, "--semi-structured", "--model", "plain", "-o", folder)
    assert (code, err) == (0, "")
    assert "1 linear layers are 2:4: layer2.linear" in out
    assert "not 2:4, so they stay dense: layer1.linear (1024 of 1024 groups), fc (160 of 160 groups)" in out
    assert "need a CUDA device of compute capability 8.0 or newer, and there is no CUDA device here" in out
    assert f"The zeros are in place in {folder / 'model.safetensors'}" in out
    written = load_file(folder / "model.safetensors")
    assert all(torch.equal(each, written[name]) for name, each in load_file(run / "plain.safetensors").items())
    assert json.loads((folder / "compact.json").read_text())["semi_structured"] == ["layer2.linear"]
    assert kdcore.load_compact(folder)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_folder_beside_the_weights_by_default(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kd(capsys, mine, "--semi-structured", "--model", "plain")[0] == 0
    assert (mine / "plain-2to4" / "model.safetensors").is_file()
    code, _, err = kd(capsys, mine, "--semi-structured", "--model", "plain")
    assert code == 1
    assert "plain-2to4' exists already and is not empty" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "studnt"], "the run has no model 'studnt'\n    did you mean 'student'?"),
        (["--stage", "frist"], "the run has no stage 'frist'\n    did you mean 'first'?"),
        (["--model", "teacher"], "this run does not train 'teacher'\n    known trained models: joined, plain, student"),
        (["--model", "plain", "--stage", "first"], "'plain' is not trained in stage 'first'"),
        (["--stage", "second"], "which model? the run trains joined, plain\n    name one: --model NAME"),
        (["--model", "joined"], "'joined' is called with teacher:flatten@input, which another model yields"),
        (["--model", "plain", "--stage", "second"], "nothing can be removed: "),
    ],
)
def test_what_cannot_be_exported(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = kd(capsys, run, "--compact", "-o", tmp_path / "small", *arguments)
    assert (code, out) == (1, "")
    assert message in err
    assert not (tmp_path / "small").exists()


def test_no_layer_is_two_to_four(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = kd(capsys, run, "--semi-structured", "-o", tmp_path / "sparse")
    assert code == 1
    assert ["none of 1 linear layers is 2:4; the closest is fc, where 160 of 160", " groups"][0][:50] in err
    assert not (tmp_path / "sparse").exists()


def test_a_run_without_weights(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mine / "student.safetensors").unlink()
    code, _, err = kd(capsys, mine, "--compact")
    assert code == 1
    assert "the run has no weights of 'student': there is no " in err
    assert f"kd run --resume {mine}" in err


def test_weights_that_are_damaged_or_another_model_s(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = mine / "student.safetensors"
    file.write_bytes(file.read_bytes()[:300])
    code, _, err = kd(capsys, mine, "--compact")
    assert code == 1
    assert "cannot be read as weights" in err
    shutil.copy(mine / "plain.safetensors", file)
    code, _, err = kd(capsys, mine, "--compact")
    assert code == 1
    assert "student.safetensors' does not fit 'student': " in err
    assert [each.name for each in mine.iterdir() if each.name.endswith("-compact")] == []


def test_what_is_no_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = kd(capsys, tmp_path / "nowhere", "--compact")
    assert code == 1
    assert "there is no run folder" in err


def test_an_output_that_exists(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "note.txt").write_text("mine")
    code, _, err = kd(capsys, run, "--compact", "-o", tmp_path)
    assert code == 1
    assert "exists already and is not empty\n    give another folder with -o" in err


def test_one_form_must_be_chosen(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = kd(capsys, run)
    assert code == 2
    assert "one of the arguments --compact --semi-structured is required" in err
