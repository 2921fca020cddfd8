"""Knowledge review against the paper's equations and the values of an earlier system."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from kd_plugin_review_kd.fusion import ReviewFusion
from kd_plugin_review_kd.loss import HierarchicalContextLoss
from torch import Tensor

import kdcore
from kdcore.contracts import Facts, TensorFacts

from . import textbook

GOLDEN = torch.load(Path(__file__).with_name("golden.pt"), weights_only=True)


def maps(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), teacher


@pytest.mark.parametrize("sizes", [(4, 2, 1), (3,), (), (8, 5, 4)])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 2, 7, 7), (2, 3, 1, 1)])
def test_value_and_gradient_follow_the_textbook(shape: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    student, teacher = maps(*shape)
    value = HierarchicalContextLoss(sizes)(student, teacher)
    expected = textbook.hierarchical_context(student, teacher, sizes)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(each, student)[0] for each in (value, expected)))


def test_golden() -> None:
    student = GOLDEN["student"].clone().requires_grad_()
    value = HierarchicalContextLoss()(student, GOLDEN["teacher"])
    torch.testing.assert_close(value, GOLDEN["value"])
    torch.testing.assert_close(torch.autograd.grad(value, student)[0], GOLDEN["grad"])


def test_maps_that_are_not_square_and_plain_features() -> None:
    student, teacher = maps(2, 3, 4, 2)
    difference = student - teacher
    levels = [difference, F.adaptive_avg_pool2d(difference, (2, 2)), F.adaptive_avg_pool2d(difference, 1)]
    expected = sum(weight * each.square().mean() for weight, each in zip((1, 0.5, 0.25), levels, strict=True)) / 1.75
    torch.testing.assert_close(HierarchicalContextLoss()(student, teacher), expected)
    flat = HierarchicalContextLoss()(student[:, :, 0, 0], teacher[:, :, 0, 0])
    torch.testing.assert_close(flat, difference[:, :, 0, 0].square().mean())


def test_the_sum() -> None:
    student, teacher = maps(2, 3, 2, 2)
    difference = student - teacher
    expected = (difference.square().sum() + 0.5 * difference.mean((2, 3)).square().sum()) / 1.5
    torch.testing.assert_close(HierarchicalContextLoss(reduction="sum")(student, teacher), expected)


def test_inputs_that_do_not_fit() -> None:
    loss = HierarchicalContextLoss()
    with pytest.raises(ValueError, match=r"student has shape \(2, 3, 4, 4\) but teacher has \(2, 3, 2, 2\)"):
        loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2))
    with pytest.raises(ValueError, match=r"student has shape \(2, 3, 4\); \(B, C, H, W\) or \(B, C\)"):
        loss(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match=r"output_sizes is \[0\]; sizes must be 1 or more"):
        HierarchicalContextLoss([0])


STUDENT = [(2, 4, 8, 8), (2, 6, 4, 6), (2, 8)]
TEACHER = [(2, 5, 8, 8), (2, 7, 2, 3), (2, 9)]


def tensors(shapes: list[tuple[int, ...]]) -> list[Tensor]:
    return [torch.randn(*shape) for shape in shapes]


def facts(**inputs: list[tuple[int, ...]]) -> Facts:
    described = {name: [TensorFacts(shape, torch.float32) for shape in shapes] for name, shapes in inputs.items()}
    return Facts(inputs=described)


def test_the_fusion_has_the_teachers_shapes_and_joins_from_behind() -> None:
    torch.manual_seed(0)
    fusion = ReviewFusion()
    fusion.setup(facts(student=STUDENT, teacher=TEACHER))
    fusion.setup(facts(student=STUDENT, teacher=TEACHER))
    student = [each.requires_grad_() for each in tensors(STUDENT)]
    outputs = fusion(student, tensors(TEACHER))
    assert [tuple(each.shape) for each in outputs] == TEACHER
    for place, output in enumerate(outputs):
        reached = torch.autograd.grad(output.square().sum(), student, allow_unused=True, retain_graph=True)
        assert [each is not None for each in reached] == [other >= place for other in range(3)]


def test_the_fusion_follows_the_equations() -> None:
    torch.manual_seed(0)
    fusion = ReviewFusion([3, 4], [5, 6], mid_channels=2).double().eval()
    first, deep = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 4, 2, 2).double()
    outputs = fusion([first, deep])
    levels = fusion.levels
    assert levels is not None
    review = levels[1].enter(deep)
    torch.testing.assert_close(outputs[1], levels[1].leave(review))
    x, enlarged = levels[0].enter(first), review.repeat_interleave(2, 2).repeat_interleave(2, 3)
    shares = torch.sigmoid(levels[0].attention[0](torch.cat([x, enlarged], 1)))
    torch.testing.assert_close(outputs[0], levels[0].leave(x * shares[:, 0:1] + enlarged * shares[:, 1:2]))


def test_a_fusion_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="does not know its out_channels; bind teacher"):
        ReviewFusion().setup(facts(student=STUDENT))
    with pytest.raises(ValueError, match="3 layers of the student but 2 outputs"):
        ReviewFusion().setup(facts(student=STUDENT, teacher=TEACHER[:2]))
    with pytest.raises(ValueError, match=r"in_channels is \[4, 6\] but student has channels \[4, 6, 8\]"):
        ReviewFusion([4, 6], [5, 7]).setup(facts(student=STUDENT, teacher=TEACHER))
    with pytest.raises(ValueError, match="student must be a list of addresses"):
        ReviewFusion().setup(Facts(inputs={"student": TensorFacts((2, 3), torch.float32)}))
    with pytest.raises(ValueError, match=r"student has shapes \(2, 3, 4\); \(B, C, H, W\)"):
        ReviewFusion().setup(facts(student=[(2, 3, 4)], teacher=[(2, 3, 4)]))
    with pytest.raises(ValueError, match="used before setup"):
        ReviewFusion()(tensors(STUDENT))
    fusion = ReviewFusion([4, 6, 8], [5, 7, 9])
    with pytest.raises(ValueError, match=r"needs maps of \[4, 6, 8\] channels, and as many from the teacher, found 2"):
        fusion(tensors(STUDENT), tensors(TEACHER[:2]))
    with pytest.raises(ValueError, match="at least 2 samples are needed"):
        fusion([each[:1] for each in tensors(STUDENT)])
    assert fusion.eval()([each[:1] for each in tensors(STUDENT)])[2].isfinite().all()


CONFIG = """
version: 1
name: tiny
models: {teacher: {}, student: {}}
adapters:
  review:
    type: review_fusion
    inputs: {student: [student:0, student:1], teacher: [teacher:0, teacher:1]}
stages:
  - name: distilled
    train: [student, review]
    losses:
      first: {type: hierarchical_context, inputs: {student: review#0, teacher: teacher:0}}
      second: {type: hierarchical_context, inputs: {student: review#1, teacher: teacher:1}}
"""


def test_in_a_config(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(CONFIG)
    models = {
        name: torch.nn.Sequential(torch.nn.Conv2d(1, width, 3, 2), torch.nn.Conv2d(width, 2 * width, 3, 2))
        for name, width in (("teacher", 4), ("student", 2))
    }
    batch = {"input": torch.randn(3, 1, 15, 15)}
    objective = kdcore.build_objective(file, models=models, example_batch=batch)
    objective(batch).total.backward()
    learned = [name for name, each in objective.named_trainable() if each.grad is not None and each.grad.any()]
    assert any("review" in name for name in learned)
    assert len([name for name in learned if "student." in name]) == 4
    assert not any("teacher." in name for name in learned)
