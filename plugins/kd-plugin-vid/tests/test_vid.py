"""`vid` against the paper's form and the values of an earlier system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kd_plugin_vid.checks import check_regressor
from kd_plugin_vid.loss import VIDLoss
from kd_plugin_vid.regressor import VIDRegressor
from torch import Tensor, nn

from kdcore import build_objective, create
from kdcore.component import CheckContext
from kdcore.contracts import Facts, TensorFacts
from kdcore.errors import ConfigError

from .textbook import vid

RAW = json.loads(Path(__file__).with_name("golden.json").read_text())
REGRESSOR = json.loads(Path(__file__).with_name("regressor.json").read_text())
SMALL = """
version: 1
name: small
models: {student: {}, teacher: {}}
adapters: {regressor: {type: vid_regressor, inputs: {x: "student:0"}, like: "teacher:0"}}
stages:
  - name: only
    train: [student, regressor]
    losses:
      vid: {type: vid, inputs: {mean: "regressor#mean", variance: "regressor#variance", teacher: "teacher:0"}}
"""


def nets() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        name: nn.Sequential(nn.Conv2d(1, width, 3), nn.Conv2d(width, width, 3), nn.Flatten(), nn.Linear(16 * width, 3))
        for name, width in (("student", 3), ("teacher", 5))
    }


def batch_of(size: int) -> dict[str, Tensor]:
    return {"input": torch.randn(size, 1, 8, 8), "target": torch.arange(size) % 3}


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def features(variance: tuple[int, ...] = (1, 4, 1, 1)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    mean, teacher = (torch.randn(3, 4, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    spread = 0.1 + torch.rand(variance, generator=generator, dtype=torch.float64)
    return [mean.requires_grad_(), spread.requires_grad_(), teacher]


@pytest.mark.parametrize("variance", [(1, 4, 1, 1), (3, 4, 2, 2), (3, 1, 1, 1), (1, 1, 1, 1)])
def test_value_and_gradient_are_the_textbooks(variance: tuple[int, ...]) -> None:
    made = features(variance)
    loss, expected = VIDLoss()(*made), vid(*made)
    torch.testing.assert_close(loss, expected)
    for found, wanted in zip(torch.autograd.grad(loss, made[:2]), torch.autograd.grad(expected, made[:2]), strict=True):
        torch.testing.assert_close(found, wanted)


def test_golden() -> None:
    made = [double(RAW[name]) for name in ("mean", "variance", "teacher")]
    students = [each.requires_grad_() for each in made[:2]]
    loss = VIDLoss()(*made)
    torch.testing.assert_close(loss, double(RAW["value"]))
    for found, expected in zip(torch.autograd.grad(loss, students), RAW["grads"], strict=True):
        torch.testing.assert_close(found, double(expected))


def test_at_equality_the_variance_remains() -> None:
    mean, variance, _ = features()
    torch.testing.assert_close(VIDLoss()(mean, variance, mean), variance.log().mean() / 2)


def test_inputs_that_do_not_fit() -> None:
    mean, variance, teacher = features()
    with pytest.raises(ValueError, match=r"mean has shape \(3, 4, 2, 2\) but teacher has \(3, 2, 2, 2\)"):
        VIDLoss()(mean, variance, teacher[:, :2])
    with pytest.raises(
        ValueError, match=r"variance has shape \(1, 3, 1, 1\) but mean has .* must be that of the mean or 1"
    ):
        VIDLoss()(mean, variance[:, :3], teacher)
    with pytest.raises(ValueError, match=r"variance has shape \(4,\)"):
        VIDLoss()(mean, variance.flatten(), teacher)


@pytest.mark.parametrize(("param", "value"), [("margin", 1.0)])
def test_create_refuses_wrong_params(param: str, value: object) -> None:
    with pytest.raises(ConfigError, match=param):
        create("loss", "vid", **{param: value})


def facts(x: tuple[int, ...], like: tuple[int, ...] | None = None) -> Facts:
    described = None if like is None else TensorFacts(like, torch.float32)
    return Facts(inputs={"x": TensorFacts(x, torch.float32)}, like=described)


def test_the_adapter_takes_its_channels_from_x_and_like() -> None:
    adapter = VIDRegressor()
    adapter.setup(facts((5, 3, 4, 4), (5, 7, 2, 2)))
    parameters = list(adapter.parameters())
    assert adapter(torch.randn(2, 3, 4, 4))["mean"].shape == (2, 7, 4, 4)
    adapter.setup(facts((9, 3, 4, 4), (9, 7, 2, 2)))
    assert all(before is after for before, after in zip(parameters, adapter.parameters(), strict=True))
    again = VIDRegressor(3, 7)
    again.load_state_dict(adapter.state_dict())
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(again(x)["mean"], adapter(x)["mean"])


def test_an_adapter_that_lacks_a_size() -> None:
    with pytest.raises(ValueError, match="vid_regressor does not know its out_channels; give like:"):
        VIDRegressor().setup(facts((5, 3, 4, 4)))
    with pytest.raises(ValueError, match="vid_regressor does not know its in_channels; bind x"):
        VIDRegressor(out_channels=3).setup(Facts())
    with pytest.raises(ValueError, match=r"in_channels is 4 but x has shape \(5, 3, 4, 4\)"):
        VIDRegressor(4, 2).setup(facts((5, 3, 4, 4)))
    with pytest.raises(ValueError, match=r"x has shape \(5, 3\); vid_regressor takes feature maps"):
        VIDRegressor().setup(facts((5, 3)))
    with pytest.raises(ValueError, match="vid_regressor was used before setup"):
        VIDRegressor()(torch.zeros(2, 3, 4, 4))


def test_the_regressor_against_golden() -> None:
    kwargs, state = REGRESSOR["kwargs"], REGRESSOR["state_dict"]
    regressor = VIDRegressor(kwargs["in_channels"], kwargs["out_channels"], kwargs["middle_channels"]).double()
    names = {"raw_variance": "soft_plus_param", **{f"body.{n}.weight": f"regressor.{n}.weight" for n in (0, 2, 4)}}
    regressor.load_state_dict({own: double(state[theirs]) for own, theirs in names.items()})
    x = double(REGRESSOR["inputs"][0]).requires_grad_()
    outputs = list(regressor(x).values())
    for found, expected in zip(outputs, REGRESSOR["outputs"], strict=True):
        torch.testing.assert_close(found, double(expected))
    torch.autograd.backward(outputs, [double(each) for each in REGRESSOR["cotangents"]])
    torch.testing.assert_close(x.grad, double(REGRESSOR["input_grads"][0]))
    for name, parameter in regressor.named_parameters():
        torch.testing.assert_close(parameter.grad, double(REGRESSOR["param_grads"][names[name]]))


@pytest.mark.parametrize("variance", [1e-3, 5.0, 200.0])
def test_the_variance_starts_as_told_and_never_overflows(variance: float) -> None:
    regressor = VIDRegressor(2, 3, initial_variance=variance)
    x = torch.randn(1, 2, 2, 2)
    torch.testing.assert_close(regressor(x)["variance"], torch.full((1, 3, 1, 1), variance))
    regressor.raw_variance.data.fill_(1e4)
    assert regressor(x)["variance"].isfinite().all()
    regressor.raw_variance.data.fill_(-1e4)
    assert (regressor(x)["variance"] >= 1e-5).all()


def test_a_variance_to_begin_with_is_above_the_least() -> None:
    with pytest.raises(ValueError, match=r"initial_variance is 0\.1; it must be above eps"):
        VIDRegressor(initial_variance=0.1, eps=0.2)
    params = {"initial_variance": 0.1, "eps": 0.2}
    (complaint,) = check_regressor(params, CheckContext())
    assert complaint.message == "initial_variance is 0.1 and eps is 0.2; it must be above eps"
    assert list(check_regressor({**params, "eps": 0.05}, CheckContext())) == []


def test_in_an_objective(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    objective = build_objective(config, models=nets(), example_batch=batch_of(4))
    out = objective(batch_of(4))
    out.total.backward()
    assert out.terms["vid"].isfinite()
    learned = {key: each for key, each in objective.named_trainable() if "regressor" in key}
    assert len(learned) == 4
    assert all(each.grad is not None and each.grad.any() for each in learned.values())
