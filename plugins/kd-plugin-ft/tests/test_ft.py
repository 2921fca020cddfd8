"""`ft` against the paper's form and the values of an earlier system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kd_plugin_ft.factors import Paraphraser, Translator
from kd_plugin_ft.loss import FTLoss
from torch import Tensor, nn

from kdcore import build_objective
from kdcore.contracts import Facts, TensorFacts

from .textbook import ft

GOLDEN = {
    key: torch.tensor(value, dtype=torch.float64)
    for key, value in json.loads(Path(__file__).with_name("golden.json").read_text()).items()
}
ADAPTERS = torch.load(Path(__file__).with_name("adapters.pt"), weights_only=True)
SMALL = """
version: 1
name: small
models: {student: {}, teacher: {}}
adapters:
  paraphraser: {type: ft_paraphraser, params: {rate: 0.6}, inputs: {x: "teacher:0"}}
  translator: {type: ft_translator, inputs: {x: "student:0"}, like: "paraphraser:encoder"}
stages:
  - name: paraphrase
    train: [paraphraser]
    losses:
      rebuild: {type: mse, inputs: {input: paraphraser, target: "teacher:0"}}
  - name: distilled
    train: [student, translator, paraphraser]
    losses:
      rebuild: {type: mse, inputs: {input: paraphraser, target: "teacher:0"}}
      ft: {type: ft, inputs: {student: translator, teacher: "paraphraser:encoder"}}
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


def factors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 4, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), teacher


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize("reduction", ["mean", "batchmean", "sum"])
def test_value_and_gradient_are_the_textbooks(p: float, reduction: str) -> None:
    student, teacher = factors()
    loss, expected = FTLoss(p, reduction)(student, teacher), ft(student, teacher, p, reduction)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


def test_golden() -> None:
    student = GOLDEN["student"].clone().requires_grad_()
    loss = FTLoss()(student, GOLDEN["teacher"])
    torch.testing.assert_close(loss, GOLDEN["value"])
    torch.testing.assert_close(gradient(loss, student), GOLDEN["grad"])


def test_scale_does_not_matter() -> None:
    student, teacher = factors()
    torch.testing.assert_close(FTLoss()(7 * student, teacher / 3), FTLoss()(student, teacher))


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"student has shape \(2, 3, 4, 4\) but teacher has \(2, 5, 4, 4\)"):
        FTLoss()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))


def facts(x: tuple[int, ...], like: tuple[int, ...] | None = None) -> Facts:
    described = None if like is None else TensorFacts(like, torch.float32)
    return Facts(inputs={"x": TensorFacts(x, torch.float32)}, like=described)


def test_the_adapter_takes_its_channels_from_x_and_like() -> None:
    adapter = Translator()
    adapter.setup(facts((5, 3, 4, 4), (5, 7, 2, 2)))
    parameters = list(adapter.parameters())
    assert adapter(torch.randn(2, 3, 4, 4)).shape == (2, 7, 4, 4)
    adapter.setup(facts((9, 3, 4, 4), (9, 7, 2, 2)))
    assert all(before is after for before, after in zip(parameters, adapter.parameters(), strict=True))
    again = Translator(3, 7)
    again.load_state_dict(adapter.state_dict())
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(again(x), adapter(x))


def test_an_adapter_that_lacks_a_size() -> None:
    with pytest.raises(ValueError, match="ft_translator does not know its out_channels; give like:"):
        Translator().setup(facts((5, 3, 4, 4)))
    with pytest.raises(ValueError, match="ft_translator does not know its in_channels; bind x"):
        Translator(out_channels=3).setup(Facts())
    with pytest.raises(ValueError, match=r"in_channels is 4 but x has shape \(5, 3, 4, 4\)"):
        Translator(4, 2).setup(facts((5, 3, 4, 4)))
    with pytest.raises(ValueError, match=r"x has shape \(5, 3\); ft_translator takes feature maps"):
        Translator().setup(facts((5, 3)))
    with pytest.raises(ValueError, match="ft_translator was used before setup"):
        Translator()(torch.zeros(2, 3, 4, 4))


def test_the_paraphraser_takes_its_channels_from_x() -> None:
    paraphraser = Paraphraser(rate=0.4)
    paraphraser.setup(facts((5, 6, 4, 4)))
    x = torch.randn(2, 6, 4, 4)
    assert paraphraser.encoder(x).shape == (2, 2, 4, 4)
    assert paraphraser(x).shape == x.shape
    with pytest.raises(ValueError, match=r"in_channels is 6 but x has shape \(5, 7, 4, 4\)"):
        paraphraser.setup(facts((5, 7, 4, 4)))
    with pytest.raises(ValueError, match="ft_paraphraser was used before setup"):
        Paraphraser()(x)


def made(which: str) -> nn.Module:
    if which == "translator":
        return Translator(6, 3).double()
    return Paraphraser(0.5, 6).double()


@pytest.mark.parametrize("which", ["paraphraser", "encoder", "translator"])
def test_the_adapters_against_golden(which: str) -> None:
    case, module = ADAPTERS[which], made(which)
    prefix = "body." if which == "translator" else ""
    module.load_state_dict({prefix + key: value for key, value in case["state_dict"].items()})
    x = case["inputs"][0].clone().requires_grad_()
    output = module.encoder(x) if which == "encoder" else module(x)
    torch.testing.assert_close(output, case["outputs"][0])
    output.backward(case["cotangents"][0])
    torch.testing.assert_close(x.grad, case["input_grads"][0])
    parameters = dict(module.named_parameters())
    for key, expected in case["param_grads"].items():
        if expected is not None:
            torch.testing.assert_close(parameters[prefix + key].grad, expected)
    state = module.state_dict()
    for key, expected in case["state_after"].items():
        torch.testing.assert_close(state[prefix + key], expected)


@pytest.mark.parametrize("stage", ["paraphrase", "distilled"])
def test_in_an_objective(tmp_path: Path, stage: str) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    objective = build_objective(config, models=nets(), example_batch=batch_of(4), stage=stage)
    out = objective(batch_of(4))
    out.total.backward()
    learned = {key: each for key, each in objective.named_trainable() if "paraphraser" in key or "translator" in key}
    assert any("decoder" in key for key in learned)
    assert any("translator" in key for key in learned) == (stage == "distilled")
    assert all(each.grad is not None and each.grad.isfinite().all() for each in learned.values())
