"""Weights that are missing, broken, or of another model: said before anything is trained, never loaded in part."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from kd_plugin_digits.networks import DigitsCNN, DigitsMLP
from torch import Tensor

from tests.mistakes.good import ONE_STAGE

WEIGHTS = "weights: as_built"
LAST = "optimizer: {type: AdamW, params: {lr: 1e-3}}\n"


class Code:
    """What a malicious pickle would run."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch was_run",)


def state(width: int = 4, **replaced: Any) -> dict[str, Any]:
    """Return the weights that fit the teacher, some of them replaced or (None) left out."""
    whole = {
        **DigitsCNN(width=width, depth=2).state_dict(),
        **{key.replace("__", "."): v for key, v in replaced.items()},
    }
    return {key: value for key, value in whole.items() if value is not None}


def saved(**options: Any) -> Callable[[Path], None]:
    """Return what writes such weights."""
    return lambda file: torch.save(state(**options), file)


def cut(share: float, suffix: str) -> Callable[[Path], None]:
    """Return what writes only the first part of a file."""

    def write(file: Path) -> None:
        torch.save(state(), file) if suffix == "pt" else safetensors.torch.save_file(state(), file)
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * share)])

    return write


def written(content: bytes) -> Callable[[Path], None]:
    """Return what writes these bytes."""
    return lambda file: file.write_bytes(content) and None


NO_WEIGHTS = "holds more than tensors, or is no weights file at all; loading it could run code"

CASES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "missing": (
        "techer.pt",
        lambda file: torch.save(state(), file.with_name("teacher.pt")),
        r"no weights file .*\n    did you mean 'teacher.pt'",
    ),
    "misspelt as_built": ("as_bulit", lambda file: None, r"no weights file 'as_bulit'.*\n    did you mean 'as_built'"),
    "a folder": (
        "folder",
        lambda file: (file.mkdir(), torch.save(state(), file / "model.pt"))[1],
        r"'folder' is a folder.*\n    .*model.pt",
    ),
    "empty": ("w.pt", written(b""), "'w.pt' cannot be read as weights: .*\n    the file may be truncated"),
    "empty safetensors": (
        "w.safetensors",
        written(b""),
        "'w.safetensors' cannot be read as weights: .*\n    the file may be trunc",
    ),
    "truncated": ("w.pt", cut(0.5, "pt"), "'w.pt' cannot be read as weights: "),
    "truncated safetensors": (
        "w.safetensors",
        cut(0.5, "safetensors"),
        "'w.safetensors' cannot be read as weights: .*\n",
    ),
    "truncated within its header": (
        "w.safetensors",
        cut(0.01, "safetensors"),
        "'w.safetensors' cannot be read as weights: ",
    ),
    "an error page": ("w.pt", written(b"<html>404</html>"), NO_WEIGHTS),
    "bytes of something else": ("w.pt", written(bytes(range(256)) * 4), f"(cannot be read as weights|{NO_WEIGHTS})"),
    "code": ("w.pt", lambda file: file.write_bytes(pickle.dumps(Code(), protocol=2)) and None, NO_WEIGHTS),
    "a pickled model": (
        "w.pt",
        lambda file: torch.save(DigitsCNN(width=4, depth=2), file),
        f"{NO_WEIGHTS}\n    save the model's state_dict",
    ),
    "a list": ("w.pt", lambda file: torch.save([1, 2], file), "holds a list, not a state dict"),
    "a tensor": ("w.pt", lambda file: torch.save(torch.zeros(3), file), "holds a Tensor, not a state dict"),
    "nothing named": ("w.pt", lambda file: torch.save({1: torch.zeros(3)}, file), "holds no named tensors"),
    "nested": (
        "w.pt",
        lambda file: torch.save({"model": state()}, file),
        r"holds no named tensors\n    name the entry that holds them: weights: \{file: ..., key: model\}",
    ),
    "another width": (
        "w.pt",
        saved(width=8),
        r"do not fit 'teacher' \(DigitsCNN\): block1.bn.bias is \(8,\) in the file and \(4,\) in the model",
    ),
    "another model": (
        "w.pt",
        lambda file: torch.save(DigitsMLP().state_dict(), file),
        "do not fit 'teacher'.*missing in the file: block1.*unknown to the model: layer1",
    ),
    "something missing": (
        "w.pt",
        saved(fc__bias=None),
        "missing in the file: fc.bias\n    check the model's type and params, or write strict: false",
    ),
    "something too much": ("w.pt", saved(ema__decay=torch.zeros(1)), "unknown to the model: ema.decay"),
    "no tensor under a name": ("w.pt", saved(fc__bias="zeros"), "missing in the file: fc.bias"),
    "packed": (
        "w.pt",
        saved(fc__weight=torch.zeros(10, 8, dtype=torch.int8)),
        r"fc.weight is int8\[10, 8\].* in the file and float32\[10, 8\]",
    ),
    "a prefix": (
        "w.pt",
        lambda file: torch.save({f"module.{key}": value for key, value in state().items()}, file),
        "write strip_prefix: module.",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_weights_that_cannot_be_loaded(refusal: Any, name: str) -> None:
    file, write, message = CASES[name]
    write(refusal.folder / file)
    refusal.by_rehearsal(refusal.write(ONE_STAGE, (WEIGHTS, f"weights: §{file}")), "models.teacher.weights: ", message)
    assert not (refusal.folder / "was_run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("key: modle", r"no entry 'modle' that holds named tensors\n    did you mean 'model'"),
        ("key: epoch", r"no entry 'epoch' that holds named tensors\n    known entries: model"),
        ("key: model.inner", "no entry 'model.inner'"),
        ("key: model, strip_prefix: block1.", "do not fit 'teacher'.*missing in the file: block1"),
    ],
)
def test_options_of_weights_that_do_not_fit(refusal: Any, options: str, message: str) -> None:
    torch.save({"model": state(), "epoch": 3}, refusal.folder / "w.pt")
    wrong = refusal.write(ONE_STAGE, (WEIGHTS, f"weights: §{{file: w.pt, {options}}}"))
    refusal.by_rehearsal(wrong, message)


def test_weights_that_are_no_numbers(refusal: Any) -> None:
    broken: Tensor = state()["fc.weight"] * float("nan")
    saved(fc__weight=broken)(refusal.folder / "w.pt")
    wrong = refusal.write(ONE_STAGE, (WEIGHTS, "weights: w.pt"), ("kd: {", "kd: §{"))
    refusal.by_rehearsal(
        wrong, "term 'kd' .* is nan on the first batch.*; teacher is not finite already\n    look for weights"
    )


@pytest.mark.parametrize("target", ["a file", "a name too long"])
def test_an_output_folder_that_cannot_be_made(refusal: Any, target: str) -> None:
    (refusal.folder / "a file").write_text("")
    where = target if target == "a file" else "long" * 100
    wrong = refusal.write(ONE_STAGE, ("output_dir: runs", f"output_dir: §{where}"))
    called = refusal.call("run", wrong.file, "--quiet")
    assert called.code == 1
    assert f"{wrong.positions[0]}output_dir: the run folder '{where}/tiny/" in called.err
    assert "cannot be made: " in called.err
    assert "choose another output_dir" in called.err
    assert "Traceback" not in called.err
