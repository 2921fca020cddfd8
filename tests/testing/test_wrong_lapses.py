"""What is wrong only in larger batches, in eval mode, elsewhere than on the CPU or after the first use is caught too."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from kdcore.component import Input, Kind
from kdcore.testing import Example
from tests.testing import test_wrong_losses, test_wrong_parts
from tests.testing.test_wrong_losses import registered
from tests.testing.wrong import lapses

LOSSES = [
    (lapses.FifthSampleHalf, {"batch_order": "with the 9 samples permuted", "halves": "the whole batch of 8 gives"}),
    (lapses.SumOfManySamples, {"halves": "the whole batch of 8 gives .*, its halves together"}),
    (lapses.OnlyPairs, {"batch_order": "with the 9 samples permuted"}),
    (lapses.Seeds, {"seeds_nothing": "called under two seeds it leaves torch's global generator in one state"}),
    (lapses.SeedsNumpyWhenBuilt, {"seeds_nothing": "built under two seeds it leaves numpy's global generator in one"}),
    (lapses.FirstTeacherForEver, {"leaves_nothing": r"outlives the instances, in .*\.lapses\._FIRST\."}),
    (lapses.FirstMeanForEver, {"leaves_nothing": r"outlives the instances, in .*\.lapses\._MEAN\."}),
    (lapses.TeacherLearnsInEvaluation, {"teacher_detached": "a gradient reaches input teacher in eval mode"}),
    (
        lapses.IgnoresTheTeacher,
        {
            "teacher_counts": "with another teacher it returned .* as before",
            "equal_value": "a student that has learned everything costs 0",
            "equal_gradient": "would be moved away",
        },
    ),
    (lapses.MadeOnTheCPU, {"other_device": r"on two devices in line \d+ of .*lapses\.py \(return \(losses \* torch"}),
    (lapses.AttributeNotABuffer, {"other_device": r"on two devices .*self\.scale.* keep constants in buffers"}),
    (lapses.ReadsANumber, {"other_device": r"reads a number out of a tensor in line \d+ of .*lapses\.py"}),
    (lapses.Rounds, {"gradients": "with float64 inputs and parameters it returned float32"}),
    (lapses.ChangesTheTeacherBackward, {"inputs_unchanged": "input teacher was changed in place by its backward pass"}),
]


@pytest.mark.parametrize(("factory", "expected"), LOSSES, ids=[each.__name__ for each, _ in LOSSES])
def test_a_wrong_loss_is_caught(factory: Any, expected: dict[str, str]) -> None:
    agree(test_wrong_losses.failures(registered(factory)), expected)


PARTS = [
    (
        Kind.ADAPTER,
        lapses.AdapterMovesFrozen,
        {"evaluation_pure": "in eval mode with gradient it changed mean: a froz"},
    ),
    (Kind.ADAPTER, lapses.LastRowOfMany, {"batch_order": "with the 9 samples permuted the output is not"}),
    (
        Kind.MODEL,
        lapses.DropoutForEver,
        {
            "batch_order": "with the 4 samples permuted the output is not",
            "evaluation_pure": "in eval mode under two seeds it returned .*draw only if self.training",
        },
    ),
    (Kind.DATASET, lapses.DrawnWhenBuilt, {"random": "sample 0 depends on the seed under which it was built"}),
    (Kind.DATASET, lapses.DrawnUnseeded, {"samples": "is another in a data set built again under the same seed"}),
    (Kind.DATASET, lapses.TooLong, {"samples": "it has 40 samples, but reading sample 39 raised IndexError: there is"}),
    (Kind.DATASET, lapses.LateLabels, {"labels": r"sample 30 has target 1 but targets\[30\] is 0"}),
    (Kind.DATASET, lapses.LabelsBeyondTheLast, {"labels": "sample 31 has the label 2 but num_classes is 2"}),
    (Kind.DATASET, lapses.NegativeLabels, {"labels": "targets holds the label -1; labels go from 0"}),
    (Kind.DATASET, lapses.SeedsWhenRead, {"seeds_nothing": "read under two seeds it leaves torch's global generator"}),
    (Kind.DATASET, lapses.LosesASample, {"batch": "3 samples collated have 2 rows in 'input', not 3"}),
]


@pytest.mark.parametrize(("kind", "factory", "expected"), PARTS, ids=[part.__name__ for _, part, _ in PARTS])
def test_a_wrong_part_is_caught(kind: Kind, factory: Any, expected: dict[str, str]) -> None:
    agree(test_wrong_parts.failures(kind, factory), expected)


def test_gradients_must_reach_every_tensor_of_a_list() -> None:
    def layers(generator: torch.Generator, batch: int) -> dict[str, list[torch.Tensor]]:
        names = ("student", "teacher")
        return {name: [torch.randn(batch, size, generator=generator) for size in (5, 3)] for name in names}

    inputs = tuple(Input(name, list=True, help="features (B, C)") for name in ("student", "teacher"))
    schema = {"type": "object", "additionalProperties": False, "properties": {}}
    component = registered(lapses.FirstOfTheList, inputs=inputs, schema=schema)
    found = test_wrong_losses.failures(
        component, [Example(inputs=layers, skip={"half_precision": "not what is tested"})]
    )
    agree(found, {"gradient_reaches": r"reaches input student\[1\]: .* there, though one reaches student\[0\]"})


def test_what_only_shapes_tell_may_be_shared() -> None:
    assert test_wrong_losses.failures(registered(lapses.SharesWhatShapesTell)) == {}


def test_a_long_data_set_passes() -> None:
    assert test_wrong_parts.failures(Kind.DATASET, lapses.LongData) == {}


def agree(found: dict[str, str], expected: dict[str, str]) -> None:
    assert found.keys() == expected.keys(), found
    for check, message in expected.items():
        assert re.search(message, found[check]), found[check]
