"""`cckd` against the paper's form and the values of an earlier system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kd_plugin_cckd.head import CCKDHead
from kd_plugin_cckd.loss import CCKDLoss
from torch import Tensor, nn

from kdcore import build_objective
from kdcore.contracts import Facts, TensorFacts

from .textbook import cckd

GOLDEN = {
    key: torch.tensor(value, dtype=torch.float64)
    for key, value in json.loads(Path(__file__).with_name("golden.json").read_text()).items()
}
SMALL = """
version: 1
name: small
models: {student: {}, teacher: {}}
stages:
  - name: only
    train: [student]
    losses:
      cckd: {type: cckd, inputs: {student: "student:0", teacher: "teacher:0"}}
"""


def features(batch: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(batch, 3, 2, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), torch.randn(batch, 9, generator=generator, dtype=torch.float64)


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


@pytest.mark.parametrize(
    "params",
    [{}, {"kernel": "bilinear"}, {"gamma": 1.5, "max_p": 5}, {"normalize": False, "max_p": 1, "reduction": "sum"}],
)
@pytest.mark.parametrize("batch", [2, 7])
def test_value_and_gradient_are_the_textbooks(params: dict[str, object], batch: int) -> None:
    student, teacher = features(batch)
    loss, expected = CCKDLoss(**params)(student, teacher), cckd(student, teacher, **params)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


def test_a_steep_kernel_of_many_powers_does_not_overflow() -> None:
    student, teacher = features()
    loss = CCKDLoss(gamma=1e6, max_p=100)(student, teacher)
    assert loss.isfinite()
    assert gradient(loss, student).isfinite().all()
    with pytest.raises(ValueError, match="max_p is 101; it must be from 1 to 100"):
        CCKDLoss(max_p=101)


def test_golden_whose_norm_is_not_squared() -> None:
    student = GOLDEN["student"].clone().requires_grad_()
    loss = CCKDLoss(normalize=False, reduction="sum")(student, GOLDEN["teacher"]).sqrt() / len(student) ** 2
    torch.testing.assert_close(loss, GOLDEN["value"])
    torch.testing.assert_close(gradient(loss, student), GOLDEN["grad"])


def test_scale_does_not_matter() -> None:
    student, teacher = features()
    torch.testing.assert_close(CCKDLoss()(7 * student, teacher / 5), CCKDLoss()(student, teacher))


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"student has shape \(1, 4\); cckd .* needs 2 or more"):
        CCKDLoss()(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="student has 2 rows, teacher has 3 rows"):
        CCKDLoss()(torch.zeros(2, 4), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"teacher has shape \(4,\); 2\+ dimensions"):
        CCKDLoss()(torch.zeros(4, 4), torch.zeros(4))


def facts(x: tuple[int, ...], like: tuple[int, ...] | None = None) -> Facts:
    described = None if like is None else TensorFacts(like, torch.float32)
    return Facts(inputs={"x": TensorFacts(x, torch.float32)}, like=described)


def test_the_head_takes_its_sizes_from_x_and_like() -> None:
    head = CCKDHead()
    head.setup(facts((5, 3, 2, 2), (5, 7)))
    weight = head.linear.weight
    assert head(torch.randn(4, 3, 2, 2)).shape == (4, 7)
    head.setup(facts((9, 3, 2, 2), (9, 7)))
    assert head.linear.weight is weight
    with pytest.raises(ValueError, match="leads from 12 to 7 numbers and cannot change to 12 and 8"):
        head.setup(facts((5, 12), (5, 8)))


def test_explicit_sizes_of_the_head_override() -> None:
    head = CCKDHead(in_features=12, out_features=6)
    head.setup(facts((5, 3, 2, 2), (5, 7)))
    x = torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(head(x), nn.functional.linear(x.flatten(1), head.linear.weight, head.linear.bias))
    again = CCKDHead(12, 6)
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(x), head(x))


def test_a_head_that_lacks_a_size() -> None:
    with pytest.raises(ValueError, match="does not know its out_features; give like:"):
        CCKDHead().setup(facts((5, 3)))
    with pytest.raises(ValueError, match="does not know its in_features; bind x"):
        CCKDHead(out_features=3).setup(Facts())
    with pytest.raises(ValueError, match="in_features is 4 but x has 3 numbers per sample"):
        CCKDHead(4, 2).setup(facts((5, 3)))
    with pytest.raises(ValueError, match="used before setup"):
        CCKDHead()(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="out_features must be 1 or more, found 0"):
        CCKDHead(out_features=0)


def test_the_head_learns_with_the_student(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    text = SMALL.replace('student: "student:0"', "student: head").replace("[student]", "[student, head]")
    config.write_text(text + 'adapters: {head: {type: cckd_head, inputs: {x: "student:0"}, like: "teacher:0"}}\n')
    models = {
        name: nn.Sequential(nn.Linear(4, width), nn.Linear(width, 3))
        for name, width in (("student", 2), ("teacher", 5))
    }
    batch = {"input": torch.randn(6, 4), "target": torch.arange(6) % 3}
    objective = build_objective(config, models=models, example_batch=batch)
    objective(batch).total.backward()
    learned = {key: each for key, each in objective.named_trainable() if "head" in key}
    assert learned
    assert all(each.grad is not None and each.grad.isfinite().all() for each in learned.values())
