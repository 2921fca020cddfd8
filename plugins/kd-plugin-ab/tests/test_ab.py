"""`ab` against the paper's form and the values of an earlier system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kd_plugin_ab.connector import ABConnector
from kd_plugin_ab.loss import ABLoss
from torch import Tensor, nn

from kdcore import build_objective
from kdcore.contracts import Facts, TensorFacts

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


def responses() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 4, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
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


def test_beyond_the_margin_on_the_right_side_nothing_is_lost() -> None:
    student = torch.tensor([[1.0, 5.0, -1.0, -9.0]], requires_grad=True)
    loss = ABLoss()(student, torch.tensor([[0.1, 2.0, 0.0, -3.0]]))
    assert loss.item() == 0
    assert not gradient(loss, student).any()


def test_zero_is_not_active() -> None:
    zeros = torch.zeros(2, 3)
    assert ABLoss()(zeros, zeros).item() == 3  # the student should be at -1


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"student has shape \(2, 3, 4, 4\) but teacher has \(2, 5, 4, 4\)"):
        ABLoss()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))


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
