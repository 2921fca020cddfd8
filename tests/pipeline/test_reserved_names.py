"""Attributes that the core looks for: a method is called, anything else of its name is the component's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from kdcore.component import Input
from kdcore.config.load import load_config
from kdcore.contracts import flag_of, method_of
from kdcore.engine.dry_run import dry_run
from kdcore.engine.run import run
from kdcore.errors import DataError, KdcoreError, WiringError
from kdcore.plugins import Registry

BASE = """\
version: 1
name: names
output_dir: {folder}
data:
  train: {{type: squares, batch_size: 10}}
models:
  student: {{type: digits_mlp, params: {{width: 4}}}}
stages:
  - name: only
    epochs: 1
    train: [student]
    losses: {{odd: {{type: named, wrapper: pairs, inputs: {{input: [student, student]}}}}}}
    optimizer: {{type: SGD, params: {{lr: 0.1}}}}
    accumulate: 2
"""


class Named(nn.Module):
    """Has a buffer, a number and submodules under the names of optional methods."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.progress = 0.5
        self.setup = nn.Linear(1, 1)

    def forward(self, input: Tensor) -> Tensor:
        return input.square().mean() + 0 * self.setup(input.new_ones(1)).sum()


class Squares(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input": torch.full((1, 8, 8), index / 20)}


def config(folder: Path, loss: type[nn.Module] = Named, data: type[Any] = Squares, wrapped: bool = False) -> Any:
    registry = Registry.discover()
    registry.register("loss", "named", loss, inputs=[Input("input", default="student")])
    registry.register("dataset", "squares", data)
    overrides = [] if wrapped else ["stages.only.losses.odd={type: named}"]
    return load_config(BASE.format(folder=folder), overrides=overrides, plugins=registry)


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_is_no_method_is_a_components_own(tmp_path: Path, wrapped: bool) -> None:
    folder = run(config(tmp_path, wrapped=wrapped), quiet=True)
    assert (folder / "student.safetensors").is_file()


def test_methods_and_nothing_else_are_found() -> None:
    assert [method_of(Named(), name) for name in ("count", "progress", "setup", "nothing")] == [None] * 4
    found = method_of(nn.Linear(1, 1), "reset_parameters")
    assert found is not None
    assert found.__name__ == "reset_parameters"


@pytest.mark.parametrize("value", [lambda self: False, torch.zeros(1), None, 0])
@pytest.mark.parametrize("name", ["training_only", "accepts_low_precision"])
def test_a_flag_that_is_neither_true_nor_false_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    flagged = type("Flagged", (Named,), {name: value})
    with pytest.raises(
        WiringError,
        match=rf"stages.only.losses.odd: Flagged has an attribute '{name}' of type \w+; that name is taken, for True where "
        rf"a loss (.|\n)*or set {name} to True or False",
    ):
        dry_run(config(tmp_path, flagged))


def test_a_flag_is_read() -> None:
    crossed = type("Crossed", (), {"per_block": True})()
    assert flag_of(crossed, "per_block")
    assert flag_of(crossed, "accumulates", default=True)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batches", 7, "'batches' of type int; that name is taken, for a method that chooses the samples of batches"),
        ("collate", "pad", "'collate' of type str; that name is taken, for a method that makes a batch of samples"),
        ("rows_per_sample", "two", "has rows_per_sample 'two'; that is how many rows a batch holds for each sample"),
        ("rows_per_sample", 0, "has rows_per_sample 0; that is how many"),
    ],
)
def test_a_data_sets_attribute_of_another_meaning_is_refused(
    tmp_path: Path, name: str, value: Any, message: str
) -> None:
    with pytest.raises(DataError, match=f"data.train: dataset 'squares' .* {message}"):
        dry_run(config(tmp_path, data=type("Odd", (Squares,), {name: value})))


@pytest.mark.parametrize("attributes", [{"collate": None}, {"batches": None}, {"random": None}])
def test_none_is_as_good_as_no_attribute(tmp_path: Path, attributes: dict[str, Any]) -> None:
    try:
        dry_run(config(tmp_path, data=type("Plain", (Squares,), attributes)))
    except KdcoreError as error:
        pytest.fail(str(error))
