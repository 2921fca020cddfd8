"""`ab` against the paper's form and the values of an earlier system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kd_plugin_ab.connector import ABConnector
from kd_plugin_ab.loss import ABLoss
from torch import Tensor, nn

from kdcore import build_objective, create
from kdcore.contracts import Facts, TensorFacts
from kdcore.errors import ConfigError

from .textbook import ab

RAW = json.loads(Path(__file__).with_name("golden.json").read_text())
SMALL = """
version: 1
name: small
models: {student: {}, teacher: {}}
adapters: {connector: {type: ab_connector, inputs: {x: "student:0"}, like: "teacher:0"}}
stages:
  - name: only
    train: [student, connector]
    losses:
      ab: {type: ab, inputs: {student: connector, teacher: "teacher:0"}}
"""


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


def nets() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        name: nn.Sequential(nn.Conv2d(1, width, 3), nn.Conv2d(width, width, 3), nn.Flatten(), nn.Linear(16 * width, 3))
        for name, width in (("student", 3), ("teacher", 5))
    }


def batch_of(size: int) -> dict[str, Tensor]:
    return {"input": torch.randn(size, 1, 8, 8), "target": torch.arange(size) % 3}


def responses(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 4, 2, 2, generator=generator, dtype=dtype) for _ in range(2))
    return (2 * student).requires_grad_(), teacher


@pytest.mark.parametrize("margin", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_value_and_gradient_are_the_textbooks(margin: float, reduction: str) -> None:
    student, teacher = responses()
    loss, expected = ABLoss(margin, reduction)(student, teacher), ab(student, teacher, margin, reduction)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


def test_golden_weighted_pairs() -> None:
    pairs = [{key: torch.tensor(value, dtype=torch.float64) for key, value in pair.items()} for pair in RAW["pairs"]]
    students = [pair["student"].requires_grad_() for pair in pairs]
    total = torch.stack([pair["weight"] * ABLoss()(pair["student"], pair["teacher"]) for pair in pairs]).sum()
    torch.testing.assert_close(total, torch.tensor(RAW["value"], dtype=torch.float64))
    for found, pair in zip(torch.autograd.grad(total, students), pairs, strict=True):
        torch.testing.assert_close(found, pair["grad"])


def test_gradcheck() -> None:
    student, teacher = responses()
    assert torch.autograd.gradcheck(lambda student: ABLoss()(student, teacher), (student,))


def test_beyond_the_margin_on_the_right_side_nothing_is_lost() -> None:
    student = torch.tensor([[1.0, 5.0, -1.0, -9.0]], requires_grad=True)
    loss = ABLoss()(student, torch.tensor([[0.1, 2.0, 0.0, -3.0]]))
    assert loss.item() == 0
    assert not gradient(loss, student).any()


def test_equality_and_zeros_are_finite() -> None:
    student, _ = responses()
    zeros = torch.zeros(2, 3, requires_grad=True)
    for own, theirs in ((student, student), (zeros, zeros)):
        loss = ABLoss()(own, theirs)
        assert loss.isfinite()
        assert gradient(loss, own).isfinite().all()
    assert ABLoss()(zeros, zeros).item() == 3  # 0 is not active: the student should be at -1


def test_a_batch_is_the_mean_of_its_samples() -> None:
    student, teacher = responses()
    alone = [ABLoss()(student[index : index + 1], teacher[index : index + 1]) for index in range(3)]
    torch.testing.assert_close(ABLoss()(student, teacher), torch.stack(alone).mean())


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = responses()
    ABLoss()(student, teacher.requires_grad_()).backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (side.detach().to(dtype) for side in responses())
    large = (500 * student).requires_grad_()
    loss = ABLoss()(large, teacher)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ABLoss()(large.float(), teacher.float()), rtol=0, atol=0)
    assert gradient(loss, large).dtype == dtype


def test_inputs_and_params_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"student has shape \(2, 3, 4, 4\) but teacher has \(2, 5, 4, 4\)"):
        ABLoss()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
    with pytest.raises(ValueError, match="margin is 0; it must be above 0"):
        ABLoss(0)
    with pytest.raises(ValueError, match="'none'; it must be one of mean, sum"):
        ABLoss(reduction="none")


@pytest.mark.parametrize(("param", "value"), [("margin", 0), ("margins", 1), ("reduction", "none")])
def test_create_refuses_wrong_params(param: str, value: object) -> None:
    with pytest.raises(ConfigError, match=param):
        create("loss", "ab", **{param: value})


def facts(x: tuple[int, ...], like: tuple[int, ...] | None = None) -> Facts:
    described = None if like is None else TensorFacts(like, torch.float32)
    return Facts(inputs={"x": TensorFacts(x, torch.float32)}, like=described)


def test_the_adapter_takes_its_channels_from_x_and_like() -> None:
    adapter = ABConnector()
    adapter.setup(facts((5, 3, 4, 4), (5, 7, 2, 2)))
    parameters = list(adapter.parameters())
    assert adapter(torch.randn(2, 3, 4, 4)).shape == (2, 7, 4, 4)
    adapter.setup(facts((9, 3, 4, 4), (9, 7, 2, 2)))
    assert all(before is after for before, after in zip(parameters, adapter.parameters(), strict=True))
    again = ABConnector(3, 7)
    again.load_state_dict(adapter.state_dict())
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(again(x), adapter(x))


def test_an_adapter_that_lacks_a_size() -> None:
    with pytest.raises(ValueError, match="ab_connector does not know its out_channels; give like:"):
        ABConnector().setup(facts((5, 3, 4, 4)))
    with pytest.raises(ValueError, match="ab_connector does not know its in_channels; bind x"):
        ABConnector(out_channels=3).setup(Facts())
    with pytest.raises(ValueError, match=r"in_channels is 4 but x has shape \(5, 3, 4, 4\)"):
        ABConnector(4, 2).setup(facts((5, 3, 4, 4)))
    with pytest.raises(ValueError, match=r"x has shape \(5, 3\); ab_connector takes feature maps"):
        ABConnector().setup(facts((5, 3)))
    with pytest.raises(ValueError, match="ab_connector was used before setup"):
        ABConnector()(torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match="out_channels must be 1 or more, found 0"):
        ABConnector(out_channels=0)


def test_a_config_cannot_ask_for_no_channels() -> None:
    with pytest.raises(ConfigError, match="out_channels"):
        create("adapter", "ab_connector", out_channels=0)


def test_a_connector_without_batch_norm_has_a_bias() -> None:
    assert [name for name, _ in ABConnector(3, 5, batch_norm=False).named_parameters()] == [
        "body.conv.weight",
        "body.conv.bias",
    ]
    assert [name for name, _ in ABConnector(3, 5).named_parameters()] == [
        "body.conv.weight",
        "body.bn.weight",
        "body.bn.bias",
    ]


def test_in_an_objective(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    objective = build_objective(config, models=nets(), example_batch=batch_of(4))
    out = objective(batch_of(4))
    out.total.backward()
    assert out.terms["ab"] > 0
    learned = {key: each for key, each in objective.named_trainable() if "connector" in key}
    assert len(learned) == 3
    assert all(each.grad is not None and each.grad.isfinite().all() for each in learned.values())
