"""What a term says when its loss fails: the inputs that were broken already, and a repair only where it is one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdcore.errors import ConfigError, WiringError
from kdcore.pipeline.build import build_objective

from .toys import Net, make_batch

TEXT = "version: 1\nmodels: {student: {}, teacher: {}}\nstages:\n  - name: only\n    train: [student]\n    losses: %s\n"


class Broken(nn.Module):
    """Its output is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) / 0


def wire(losses: str, batch: dict[str, Tensor], student: nn.Module | None = None) -> None:
    models = {"student": student or Net(), "teacher": Net()}
    build_objective(TEXT % losses, models=models, example_batch=batch)


def test_a_loss_that_fails_on_broken_inputs_names_them() -> None:
    pattern = (
        r"term 'l' .* failed with student = student float32\[6, 3\], .*holds NaN or infinity.*; "
        r"student is not finite already\n    look for weights and samples that are not finite$"
    )
    with pytest.raises(WiringError, match=pattern):
        wire("{l: skd_direction}", make_batch(), Broken())


@pytest.mark.parametrize("kind", ["cross_entropy", "dkd"])
def test_a_wrong_label_is_no_matter_of_addresses(kind: str) -> None:
    batch = make_batch()
    batch["target"][1] = 7
    with pytest.raises(WiringError, match=r"target holds 7; with 3 classes, labels are 0 to 2[^\n]*$"):
        wire(f"{{l: {kind}}}", batch)


def test_shapes_are() -> None:
    batch = {**make_batch(), "target": torch.zeros(2, dtype=torch.long)}
    with pytest.raises(WiringError, match=r"target has shape \(2,\).*\n    bind other addresses"):
        wire("{l: dkd}", batch)


@pytest.mark.parametrize("kind", ["kd", "dkd", "spkd"])
def test_an_empty_batch_names_term_and_input(kind: str) -> None:
    inputs = "{student: 'student:fc@input', teacher: 'teacher:fc@input'}" if kind == "spkd" else "{}"

    class Empty(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:0] if kind != "spkd" else self.fc(x[:0, :4])

    text = TEXT % f"{{l: {{type: {kind}, inputs: {inputs}}}}}"
    with pytest.raises(WiringError, match=r"term 'l' \(loss .*: student has shape \(0, \d\), not one number: an empty"):
        build_objective(text, models={"student": Empty(), "teacher": Empty()}, example_batch=make_batch())


@pytest.mark.parametrize("wrong", [{"version": 1}, None])
def test_a_config_is_a_file_or_text(wrong: object) -> None:
    with pytest.raises(
        ConfigError, match=rf"a config is a file or YAML text, found a {type(wrong).__name__}\n    pass the file's path"
    ):
        build_objective(wrong, models={}, example_batch={})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["cckd", "pkt", "rkd", "skd_direction", "spkd"])
def test_a_batch_of_one_asks_for_more_samples(kind: str) -> None:
    batch = {key: value[:1] for key, value in make_batch().items()}
    inputs = "" if kind == "skd_direction" else ", inputs: {student: student, teacher: teacher}"
    pattern = r"student has shape \(1, 3\); .* and needs 2 or more in a batch\n    raise batch_size; .*drop_last: true"
    models = {"student": nn.Linear(5, 3), "teacher": nn.Linear(5, 3)}
    with pytest.raises(WiringError, match=pattern) as raised:
        build_objective(TEXT % f"{{l: {{type: {kind}{inputs}}}}}", models=models, example_batch=batch)
    assert "bind other" not in str(raised.value)


@pytest.mark.parametrize("kind", ["dkd", "mft"])
@pytest.mark.parametrize(
    ("label", "remedy"),
    [
        (-1, r"write wrapper: \{type: masked, params: \{ignore_index: -1\}\} .*; else give target: another address"),
        (255, r"write wrapper: \{type: masked, params: \{ignore_index: 255\}\} "),
        (1074, r"labels are 0 to 2: give target: the address of the class indices, or mend them in the data set$"),
    ],
)
def test_only_labels_that_mark_nothing_are_to_be_masked(kind: str, label: int, remedy: str) -> None:
    batch = make_batch()
    batch["target"][1] = label
    with pytest.raises(WiringError, match=rf"target holds {label}; with 3 classes, .*{remedy}"):
        wire(f"{{l: {kind}}}", batch)
