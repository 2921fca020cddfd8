"""Which weights a model takes from another where a stage begins."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import kdcore
from kdcore.config.config import StartConfig
from kdcore.errors import Place, WiringError
from kdcore.pipeline.starts import take, tensors_to_take


def network(width: int = 4) -> nn.Module:
    head = nn.Sequential(OrderedDict(conv=nn.Linear(3, width), bn=nn.BatchNorm1d(width), out=nn.Linear(width, 5)))
    return nn.Sequential(OrderedDict(head=head, tail=nn.Linear(5, 5), fc=nn.Linear(5, 2)))


def names(start: StartConfig, own: nn.Module, other: nn.Module) -> list[str]:
    return tensors_to_take("student", start, own, other, Place())


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (("fc",), ["fc.bias", "fc.weight"]),
        (("tail", "fc"), ["fc.bias", "fc.weight", "tail.bias", "tail.weight"]),
        (("*.weight",), ["fc.weight", "head.bn.weight", "head.conv.weight", "head.out.weight", "tail.weight"]),
        (("head.o*", "fc.bias"), ["fc.bias", "head.out.bias", "head.out.weight"]),
    ],
)
def test_patterns_name_modules_and_tensors(only: tuple[str, ...], expected: list[str]) -> None:
    assert names(StartConfig("teach", "teacher", only), network(), network()) == expected


def test_without_patterns_all_of_it_is_taken_and_must_fit() -> None:
    assert names(StartConfig("teach", "teacher"), network(), network()) == sorted(network().state_dict())
    with pytest.raises(
        WiringError, match=r"(?s)cannot start from 'teacher': they differ in head\.bn\.bias.*only: \[patt"
    ):
        names(StartConfig("teach", "teacher"), network(2), network(4))


def test_what_is_taken_must_fit_and_the_rest_need_not() -> None:
    own, other = network(2), network(4)
    before = own.head.conv.weight.detach().clone()
    take(own, other.state_dict(), names(StartConfig("teach", "teacher", ("tail", "fc")), own, other))
    assert torch.equal(own.tail.weight, other.tail.weight)
    assert torch.equal(own.fc.bias, other.fc.bias)
    assert torch.equal(own.head.conv.weight, before)
    with pytest.raises(WiringError, match=r"they differ in head\.out\.weight"):
        names(StartConfig("teach", "teacher", ("head.out",)), own, other)


def test_a_pattern_that_matches_nothing_names_the_nearest_part() -> None:
    with pytest.raises(WiringError, match=r"(?s)only: 'tial' matches nothing in 'student'.*did you mean 'tail'"):
        names(StartConfig("teach", "teacher", ("tial",)), network(), network())


CONFIG = """\
version: 1
name: tiny
output_dir: {folder}
data:
  train: {{type: digits, params: {{split: train, samples_per_class: 2}}, batch_size: 10}}
models:
  teacher: {{type: digits_cnn, params: {{width: 2}}}}
  student: {{type: digits_cnn, params: {{width: 2, bottleneck: 1}}}}
stages:
  - {{name: teach, epochs: 1, train: [teacher], optimizer: SGD, losses: {{ce: {{type: cross_entropy, inputs: {{input: teacher}}}}}}}}
  - name: distill
    epochs: 1
    train: [student]
    freeze: [student.block3, student.fc]
    start: {{student: {{stage: teach, model: teacher, only: [block3, fc]}}}}
    optimizer: SGD
    losses: {{split: {{type: mse, inputs: {{input: student:block2, target: teacher:block2}}}}}}
"""


def test_a_run_puts_a_new_beginning_before_a_teachers_end(tmp_path: Path) -> None:
    folder = kdcore.run(kdcore.load_config(CONFIG.format(folder=tmp_path)), quiet=True)
    teacher, student = (safetensors.torch.load_file(folder / f"{name}.safetensors") for name in ("teacher", "student"))
    taken = [key for key in student if key.startswith(("block3", "fc"))]
    assert taken
    assert all(torch.equal(student[key], teacher[key]) for key in taken)
    assert student["block1.conv.weight"].shape == (1, 1, 3, 3)


def test_a_frozen_model_that_took_a_part_is_still_random_elsewhere(tmp_path: Path) -> None:
    text = CONFIG.format(folder=tmp_path).replace(
        "train: [student]\n    freeze: [student.block3, student.fc]", "train: [proj]"
    )
    text = text.replace("input: student:block2", "input: proj")
    text = text.replace(
        "stages:", "adapters: {proj: {type: conv1x1, inputs: {x: student:block2}, like: teacher:block2}}\nstages:"
    )
    with pytest.raises(WiringError, match=r"'student' is frozen in stage 'distill', but no earlier stage trained it"):
        kdcore.run(kdcore.load_config(text), quiet=True)
