"""`mgd` against the paper's equations and the values of an earlier system."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kd_plugin_mgd.loss import MGDLoss
from torch import Tensor, nn

import kdcore
from kdcore.contracts import Facts, TensorFacts

from . import textbook

GOLDEN = torch.load(Path(__file__).with_name("golden.pt"), weights_only=True)


def maps(channels: tuple[int, int] = (3, 4), batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(batch, count, 4, 5, generator=generator, dtype=torch.float64) for count in channels)
    return student.requires_grad_(), teacher


def made(channels: tuple[int, int] = (3, 4), ratio: float = 0.65, reduction: str = "batchmean") -> MGDLoss:
    torch.manual_seed(0)
    return MGDLoss(ratio, reduction, *channels).double()


def drawn(ratio: float, batch: int) -> Tensor:
    torch.manual_seed(7)
    mask = (torch.rand(batch, 1, 4, 5) <= 1 - ratio).double()
    torch.manual_seed(7)
    return mask


@pytest.mark.parametrize("channels", [(3, 4), (4, 4)])
@pytest.mark.parametrize("ratio", [0.0, 0.65, 1.0])
@pytest.mark.parametrize("batch", [1, 2])
def test_value_and_gradients_follow_the_textbook(channels: tuple[int, int], ratio: float, batch: int) -> None:
    student, teacher = maps(channels, batch)
    loss = made(channels, ratio)
    mask = drawn(ratio, batch)
    value = loss(student, teacher)
    expected = textbook.mgd(student, teacher, dict(loss.named_parameters()), mask)
    torch.testing.assert_close(value, expected)
    learned = [student, *loss.parameters()]
    assert len(learned) == (7 if channels == (3, 4) else 5)
    torch.testing.assert_close(*(torch.autograd.grad(each, learned) for each in (value, expected)))


@pytest.mark.parametrize("case", GOLDEN)
def test_golden(case: str) -> None:
    golden = GOLDEN[case]
    student_channels, teacher_channels, alpha, ratio = (float(word) for word in case.split("|"))
    loss = MGDLoss(ratio, "mean", int(student_channels), int(teacher_channels))
    renamed = {name.replace("generation", "generator"): value for name, value in golden["state"].items()}
    loss.load_state_dict(renamed)
    student = golden["s"].clone().requires_grad_()
    torch.manual_seed(golden["mask_seed"])
    value = alpha * loss(student, golden["t"])
    torch.testing.assert_close(value, golden["out"])
    value.backward()
    torch.testing.assert_close(student.grad, golden["grad_s"])
    for name, expected in golden["grad_params"].items():
        torch.testing.assert_close(loss.get_parameter(name.replace("generation", "generator")).grad, expected)


def test_evaluation_masks_nothing_and_draws_nothing() -> None:
    student, teacher = maps()
    loss = made().eval()
    before = torch.get_rng_state()
    value = loss(student, teacher)
    assert torch.equal(torch.get_rng_state(), before)
    weights = dict(loss.named_parameters())
    torch.testing.assert_close(value, textbook.mgd(student, teacher, weights, torch.ones(2, 1, 4, 5)))
    torch.testing.assert_close(loss.eval()(student, teacher), made(reduction="mean").eval()(student, teacher) * 4 * 20)


def facts(student: tuple[int, ...] = (2, 3, 4, 5), teacher: tuple[int, ...] = (2, 4, 4, 5)) -> Facts:
    return Facts(
        inputs={"student": TensorFacts(student, torch.float32), "teacher": TensorFacts(teacher, torch.float32)}
    )


def test_channels_come_from_the_facts() -> None:
    loss = MGDLoss()
    with pytest.raises(ValueError, match="used before setup"):
        loss(*maps())
    loss.setup(facts())
    weights = [*loss.parameters()]
    loss.setup(facts())
    assert all(one is other for one, other in zip(weights, loss.parameters(), strict=True))
    assert loss.float()(*(each.float() for each in maps())).isfinite()
    with pytest.raises(ValueError, match=r"student_channels is 5 but student has shape \(2, 3, 4, 5\); leave"):
        MGDLoss(student_channels=5).setup(facts())
    with pytest.raises(ValueError, match=r"teacher has shape \(2, 4\); one feature map"):
        MGDLoss().setup(facts(teacher=(2, 4)))


def test_inputs_that_do_not_fit() -> None:
    loss = made().float()
    with pytest.raises(ValueError, match=r"student has shape \(2, 3, 4, 4\) and teacher \(2, 4, 2, 2\); their sizes"):
        loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 2, 2))
    with pytest.raises(ValueError, match="mgd is for 3 and 4 channels"):
        loss(torch.zeros(2, 5, 4, 4), torch.zeros(2, 4, 4, 4))
    with pytest.raises(ValueError, match="student has 1 rows, teacher has 2 rows"):
        loss(torch.zeros(1, 3, 4, 4), torch.zeros(2, 4, 4, 4))


CONFIG = """
version: 1
name: tiny
models: {teacher: {}, student: {}}
stages:
  - name: distilled
    train: [student]
    losses: {mgd: {type: mgd, inputs: {student: student:0, teacher: teacher:0}}}
"""


def test_in_a_config(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(CONFIG)
    models = {name: nn.Sequential(nn.Conv2d(1, width, 3)) for name, width in (("teacher", 4), ("student", 2))}
    batch = {"input": torch.randn(3, 1, 6, 6)}
    objective = kdcore.build_objective(file, models=models, example_batch=batch)
    objective(batch).total.backward()
    learned = [name for name, each in objective.named_trainable() if each.grad is not None]
    assert len(learned) == 8
    assert not any("teacher." in name for name in learned)
    assert sum("generator" in name or "align" in name for name in objective.state_dict()) == 6
