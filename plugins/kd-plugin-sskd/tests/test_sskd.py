"""SSKD against the paper's equations and the values of an earlier system."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from kd_plugin_sskd.auxiliary import SSKDAuxiliaryLoss
from kd_plugin_sskd.head import SSKDHead
from kd_plugin_sskd.loss import SSKDLoss, kept
from kd_plugin_sskd.rotated import Rotated, rotate
from torch import Tensor

import kdcore
from kdcore.contracts import Facts, TensorFacts
from kdcore.errors import DataError

from . import textbook

GOLDEN = torch.load(Path(__file__).with_name("golden.pt"), weights_only=True)
INPUTS = ("student", "teacher", "student_embedding", "teacher_embedding", "target")


def inputs(images: int = 5, classes: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = [
        torch.randn(4 * images, size, generator=generator, dtype=torch.float64) for size in (classes, classes, 6, 3)
    ]
    rows = [rows[0].requires_grad_(), rows[1], rows[2].requires_grad_(), rows[3]]
    return dict(zip(INPUTS, [*rows, torch.randint(classes, (images,), generator=generator)], strict=True))


def gradients(value: Tensor, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, [given["student"], given["student_embedding"]])


@pytest.mark.parametrize("ratios", [(0.75, 1.0), (0.0, 0.5), (1.0, 0.0)])
@pytest.mark.parametrize("images", [1, 5])
def test_sskd_follows_the_textbook(images: int, ratios: tuple[float, float]) -> None:
    given = inputs(images)
    weights = (1.0, 0.9, 10.0, 2.7)
    loss = SSKDLoss(3.0, 0.4, 2.0, *ratios, loss_weights=weights)
    expected = textbook.sskd(**given, temperatures=(3.0, 0.4, 2.0), ratios=ratios, weights=weights)
    if expected.isnan():  # the mean over no rows, which is 0 here
        assert loss(**given).isfinite()
        return
    torch.testing.assert_close(loss(**given), expected)
    torch.testing.assert_close(gradients(loss(**given), given), gradients(expected, given))


@pytest.mark.parametrize("images", [1, 5])
def test_the_auxiliary_task_follows_the_textbook(images: int) -> None:
    embedding = inputs(images)["student_embedding"]
    value, expected = SSKDAuxiliaryLoss()(embedding), textbook.auxiliary(embedding)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(each, embedding)[0] for each in (value, expected)))
    torch.testing.assert_close(SSKDAuxiliaryLoss("sum")(embedding), 3 * images * expected)


def test_golden() -> None:
    given = {name: GOLDEN[name].clone() for name in INPUTS}
    for name in ("student", "student_embedding"):
        given[name].requires_grad_()
    value = SSKDLoss(loss_weights=[1.0, 0.9, 10.0, 2.7])(**given)
    torch.testing.assert_close(value, GOLDEN["value"])
    expected = GOLDEN["student_grad"], GOLDEN["student_embedding_grad"]
    torch.testing.assert_close(gradients(value, given), expected)
    golden = GOLDEN["auxiliary"]
    embedding = golden["embedding"].clone().requires_grad_()
    value = SSKDAuxiliaryLoss()(embedding)
    torch.testing.assert_close(value, golden["value"])
    torch.testing.assert_close(torch.autograd.grad(value, embedding)[0], golden["grad"])


def test_evaluation_data_need_not_be_rotated() -> None:
    given = inputs()
    loss = SSKDLoss(loss_weights=[1.0, 0.9, 10.0, 2.7]).eval()
    plain = {name: each[::4] if name != "target" else each for name, each in given.items()}
    first = SSKDLoss(loss_weights=[1.0, 0.9, 0, 0]).eval()
    torch.testing.assert_close(loss(**plain), first(**given))
    torch.testing.assert_close(loss(**given), loss.train()(**given))
    with pytest.raises(ValueError, match="rows come in fours"):
        loss(**plain)


def test_what_is_kept() -> None:
    scores = torch.tensor([[3.0, 1, 2], [3, 1, 2], [3, 3, 3], [1, 2, 3], [3, 2, 1]])
    truth = torch.tensor([0, 1, 1, 1, 2])  # ranks 0, 2, 0, 1, 2
    chosen = [kept(scores, truth, ratio).tolist() for ratio in (0.0, 0.34, 0.67, 1.0)]
    assert [[row for row, each in enumerate(rows) if each] for rows in chosen] == [
        [0, 2],
        [0, 2, 3],
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4],
    ]


def test_its_own_copy_costs_labels_alone() -> None:
    given = inputs()
    same = {**given, "teacher": given["student"], "teacher_embedding": given["student_embedding"]}
    loss = SSKDLoss(loss_weights=[0, 1, 1, 1])(**same)
    assert loss.abs() < 1e-12
    assert all(each.abs().max() < 1e-12 for each in gradients(loss, given))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"student": torch.zeros(18, 7)}, r"student has shape \(18, 7\), but rows come in fours.*`rotated`"),
        ({"teacher_embedding": torch.zeros(16, 3)}, "student has 20 rows.*teacher_embedding has 16 rows"),
        ({"teacher": torch.zeros(20, 8)}, r"student has shape \(20, 7\) but teacher has \(20, 8\)"),
        ({"student": torch.zeros(20, 7, 1)}, r"student has shape \(20, 7, 1\); 2 dimensions"),
        ({"target": torch.zeros(20, dtype=torch.int64)}, "target has 20 labels for 20 rows; it needs one for each"),
        ({"target": torch.full((5,), 7)}, "target has labels from 7 to 7, but student has 7 classes"),
    ],
)
def test_inputs_that_do_not_fit(changed: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SSKDLoss()(**{**inputs(), **changed})


def test_every_part_has_a_weight() -> None:
    with pytest.raises(ValueError, match="loss_weights has 2 numbers; it needs 4"):
        SSKDLoss(loss_weights=[1, 2])
    with pytest.raises(kdcore.KdcoreError, match="loss_weights"):
        kdcore.create("loss", "sskd", loss_weights=[1, 2])


def test_the_head_takes_its_sizes_from_the_facts() -> None:
    head = SSKDHead(hidden_features=3)
    with pytest.raises(ValueError, match="sskd_head was used before setup"):
        head(torch.zeros(2, 8))
    facts = Facts(inputs={"x": TensorFacts((2, 2, 2, 2), torch.float32)})
    head.setup(facts)
    head.setup(facts)
    assert [each.shape for each in head.parameters()] == [(3, 8), (3,), (8, 3), (8,)]
    assert head(torch.zeros(2, 2, 2, 2)).shape == (2, 8)
    with pytest.raises(ValueError, match=r"in_features is 5 but x has shape \(2, 2, 2, 2\): 8 a sample"):
        SSKDHead(5).setup(facts)


def test_rotations() -> None:
    image = torch.tensor([[1, 2], [3, 4]])
    rows = rotate(torch.stack([image, image + 10]).unsqueeze(1))
    turned = [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]
    assert rows[:4].squeeze(1).tolist() == turned
    assert torch.equal(rows[4:], rows[:4] + 10)


def test_a_rotated_data_set() -> None:
    dataset = Rotated({"type": "digits", "params": {"samples_per_class": 2}})
    assert (len(dataset), dataset.rows_per_sample, dataset.num_classes, dataset.random) == (20, 4, 10, False)
    assert dataset.targets.shape == (20,)
    assert not hasattr(dataset, "batches")
    batch = pickle.loads(pickle.dumps(dataset)).collate([dataset[3], dataset[7]])
    assert batch["input"].shape == (8, 1, 8, 8)
    assert torch.equal(batch["input"][::4], torch.stack([dataset[3]["input"], dataset[7]["input"]]))
    assert batch["target"].tolist() == [dataset[3]["target"], dataset[7]["target"]]
    with pytest.raises(DataError, match="several rows per sample already"):
        Rotated({"type": "rotated", "params": {"dataset": "digits"}})
    with pytest.raises(DataError, match=r"'input' of a batch is \(2, 8, 6\); only square images"):
        rotate(torch.zeros(2, 8, 6))
    with pytest.raises(DataError, match="'picture' of a batch is NoneType"):
        Rotated("digits", key="picture").collate([dataset[0]])
    with pytest.raises(kdcore.KdcoreError, match="digit"):
        Rotated("digit")


CONFIG = """
version: 1
name: tiny
models: {teacher: {}, student: {}}
adapters:
  student_head: {type: sskd_head, inputs: {x: student:0}}
  teacher_head: {type: sskd_head, inputs: {x: teacher:0}}
stages:
  - name: head
    train: [teacher_head]
    losses: {tell: {type: sskd_auxiliary, inputs: {embedding: teacher_head}}}
"""


def test_in_a_config(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(CONFIG)
    models = {name: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)) for name in ("teacher", "student")}
    batch = {"input": rotate(torch.randn(3, 1, 2, 2)), "target": torch.tensor([0, 2, 1])}
    objective = kdcore.build_objective(file, models=models, example_batch=batch)
    objective(batch).total.backward()
    learned = {name for name, each in objective.named_trainable() if each.grad is not None}
    assert len(learned) == 4
    assert all("teacher_head" in name for name in learned)


def test_a_loss_of_no_part_is_refused() -> None:
    with pytest.raises(ValueError, match="loss_weights are all 0, which teaches nothing: give one of them a weight"):
        SSKDLoss(loss_weights=[0, 0, 0, 0])


def test_plain_batches_are_told_of_the_data_set_that_rotates() -> None:
    rows, target = torch.randn(4, 3), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"target has 4 labels for 4 rows; .*: the data set `rotated` makes such"):
        SSKDLoss()(rows, rows, rows, rows, target)
