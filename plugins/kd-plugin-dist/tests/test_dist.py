"""`dist` and `dist_plus` against the papers' formulas, the values of an earlier system, and at their edges."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from kd_plugin_dist.loss import DISTLoss
from kd_plugin_dist.plus import DISTPlusLoss
from torch import Tensor, nn

from kdcore import build_objective, create
from kdcore.errors import ConfigError

TEXTBOOK = runpy.run_path(str(Path(__file__).with_name("textbook.py")))
GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
LOSSES: dict[str, type[nn.Module]] = {"dist": DISTLoss, "dist_plus": DISTPlusLoss}
LEARNED = {"dist": ("student",), "dist_plus": ("student", "student_feature")}


def batch(name: str, size: int = 6, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"student": (size, 7), "teacher": (size, 7)}
    if name == "dist_plus":
        shapes |= dict.fromkeys(("student_feature", "teacher_feature"), (size, 3, 2, 4))
    drawn = {key: torch.randn(shape, generator=generator, dtype=torch.float64) for key, shape in shapes.items()}
    return {key: value.to(dtype).requires_grad_(key in LEARNED[name]) for key, value in drawn.items()}


def gradients(value: Tensor, inputs: dict[str, Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(value, [each for each in inputs.values() if each.requires_grad]))


PARAMS = [{}, {"tau": 4, "beta": 2, "gamma": 0.5}, {"beta": 0}, {"gamma": 0}]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("params", PARAMS)
def test_value_and_gradient_follow_the_paper(name: str, params: dict[str, Any]) -> None:
    inputs = batch(name)
    loss, expected = LOSSES[name](**params)(**inputs), TEXTBOOK[name](**inputs, **params)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, inputs), gradients(expected, inputs))


@pytest.mark.parametrize("params", [{"iota": 0}, {"kappa": 0}, {"iota": 3, "kappa": 0.5}])
def test_weights_of_the_features(params: dict[str, Any]) -> None:
    inputs = batch("dist_plus")
    torch.testing.assert_close(DISTPlusLoss(**params)(**inputs), TEXTBOOK["dist_plus"](**inputs, **params))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["type"])
def test_golden(case: dict[str, Any]) -> None:
    inputs = {key: torch.tensor(value, dtype=torch.float64) for key, value in case["inputs"].items()}
    for key in LEARNED[case["type"]]:
        inputs[key].requires_grad_()
    loss = create("loss", case["type"], **case["params"])(**inputs)
    assert loss.item() == pytest.approx(case["value"], rel=1e-7)
    for key, gradient in zip(LEARNED[case["type"]], gradients(loss, inputs), strict=True):
        expected = torch.tensor(case["gradients"][key], dtype=torch.float64)
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def test_the_sign_of_the_channel_term() -> None:
    inputs = batch("dist_plus")
    same = {**inputs, "student_feature": inputs["teacher_feature"]}
    opposite = {**inputs, "student_feature": -inputs["teacher_feature"]}
    only_channels = {"beta": 0, "gamma": 0, "kappa": 0}
    distance, similarity = DISTPlusLoss(**only_channels), DISTPlusLoss(**only_channels, channel_term="similarity")
    assert [distance(**same).item(), distance(**opposite).item()] == pytest.approx([0, 2])
    assert [similarity(**same).item(), similarity(**opposite).item()] == pytest.approx([1, -1])


def test_relations_do_not_change_with_scale_and_offset_of_the_features() -> None:
    inputs = batch("dist_plus")
    moved = {**inputs, "student_feature": 3 * inputs["student_feature"] + 5}
    torch.testing.assert_close(DISTPlusLoss()(**moved), DISTPlusLoss()(**inputs))


def test_positions_count_as_samples() -> None:
    inputs = batch("dist")
    wide = {key: value.view(2, 3, 7) for key, value in inputs.items()}
    torch.testing.assert_close(DISTLoss()(**wide), DISTLoss()(**inputs), rtol=0, atol=0)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("sides", [("student",), ("teacher",), ("student", "teacher")])
def test_what_does_not_vary_correlates_zero(name: str, sides: tuple[str, ...]) -> None:
    inputs = batch(name, dtype=torch.float32)
    for key, value in inputs.items():
        if key.startswith(sides):
            inputs[key] = torch.zeros_like(value).requires_grad_(key in LEARNED[name])
    loss = LOSSES[name]()(**inputs)
    assert loss.item() == pytest.approx(len(inputs))
    assert not any(gradient.any() for gradient in gradients(loss, inputs))


SIZES = (2, 5, 7, 10, 11, 24, 96, 1000)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", [0, 0.3, 1 / 3, 1e3])
@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constants_of_any_size_are_constant(size: int, value: float, side: str, dtype: torch.dtype) -> None:
    """Their mean is off by rounding, in as many ways as there are sizes."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(8, size, 2, generator=generator, dtype=dtype)
    features = {"student_feature": drawn, "teacher_feature": drawn.flip(0)}
    features[f"{side}_feature"] = torch.full_like(drawn, value)
    inputs = {name.removesuffix("_feature"): each[:, :, 0].clone() for name, each in features.items()} | features
    for key in LEARNED["dist_plus"]:
        inputs[key].requires_grad_()
    loss = DISTPlusLoss()(**inputs)
    assert loss.item() == pytest.approx(4)
    assert not any(gradient.any() for gradient in gradients(loss, inputs))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("samples", [10, 24, 100])
def test_samples_that_are_all_alike_do_not_vary(size: int, samples: int) -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(1, size, generator=generator).repeat(samples, 1).requires_grad_()
    loss = DISTLoss(beta=0)(student, torch.randn(samples, size, generator=generator))
    assert loss.item() == pytest.approx(1)
    assert not torch.autograd.grad(loss, student)[0].any()


@pytest.mark.parametrize("variation", [1e-2, 1e-4])
def test_little_variation_is_not_taken_for_rounding(variation: float) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(8, 10, generator=generator)
    loss = DISTLoss()(0.3 + variation * teacher, variation * teacher)
    assert loss.item() == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_of_one_has_no_relation_between_samples(name: str) -> None:
    inputs = batch(name, 1)
    within = {"gamma": 0} | ({"kappa": 0} if name == "dist_plus" else {})
    loss, rest = LOSSES[name]()(**inputs), LOSSES[name](**within)(**inputs)
    torch.testing.assert_close(loss, rest + len(within))
    torch.testing.assert_close(gradients(loss, inputs), gradients(rest, inputs), rtol=0, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_float32_is_close_to_float64(name: str) -> None:
    exact, single = batch(name, 64), batch(name, 64, torch.float32)
    loss, expected = LOSSES[name]()(**single), LOSSES[name]()(**exact)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    for gradient, wanted in zip(gradients(loss, single), gradients(expected, exact), strict=True):
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "shapes", "message"),
    [
        ("dist", {"teacher": (6, 9)}, r"student has shape \(6, 7\) but teacher has \(6, 9\).*same classes"),
        ("dist", {"student": (7,)}, r"student has shape \(7,\); 2\+ dimensions"),
        ("dist", {"student": (6, 1), "teacher": (6, 1)}, r"\(6, 1\); correlations need two classes"),
        ("dist_plus", {"teacher_feature": (6, 3, 2, 5)}, r"\(6, 3, 2, 4\) but teacher_feature has \(6, 3, 2, 5\)"),
        ("dist_plus", {"student_feature": (6, 3)}, r"student_feature has shape \(6, 3\); 3 to 5 dimensions"),
        (
            "dist_plus",
            {"student_feature": (6, 1, 2), "teacher_feature": (6, 1, 2)},
            r"student_feature has shape \(6, 1, 2\); dist_plus correlates channels",
        ),
        (
            "dist_plus",
            {"student": (5, 7), "teacher": (5, 7)},
            "student has 5 rows, student_feature has 6 rows",
        ),
    ],
)
def test_shapes_that_do_not_fit(name: str, shapes: dict[str, tuple[int, ...]], message: str) -> None:
    inputs = {**batch(name), **{key: torch.zeros(shape) for key, shape in shapes.items()}}
    with pytest.raises(ValueError, match=message):
        LOSSES[name]()(**inputs)


CONFIG = """
version: 1
models: {student: {}, teacher: {}}
stages:
  - name: distil
    train: [student]
    losses:
      dist: {type: dist, params: {beta: 2}}
      plus:
        type: dist_plus
        inputs: {student_feature: "student:0", teacher_feature: "teacher:0"}
"""


def test_in_an_objective() -> None:
    models = {
        name: nn.Sequential(nn.Conv1d(2, 3, 1), nn.Flatten(), nn.Linear(12, 5)) for name in ("student", "teacher")
    }
    batch = {"input": torch.randn(6, 2, 4)}
    out = build_objective(CONFIG, models=models, example_batch=batch)(batch)
    logits = [models[name](batch["input"]) for name in ("student", "teacher")]
    maps = [models[name][0](batch["input"]) for name in ("student", "teacher")]
    torch.testing.assert_close(out.total, DISTLoss(beta=2)(*logits) + DISTPlusLoss()(*logits, *maps))
    out.total.backward()
    assert models["student"][0].weight.grad is not None


def test_a_loss_of_no_part_is_refused() -> None:
    with pytest.raises(ValueError, match="beta and gamma are both 0, which teaches nothing: give one of them a weight"):
        DISTLoss(0, 0)
    with pytest.raises(ValueError, match="beta, gamma, iota and kappa are all 0, which teaches nothing"):
        DISTPlusLoss(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("{type: dist, params: {beta: 0, gamma: 0}}", "beta and gamma are both 0"),
        (
            '{type: dist_plus, params: {beta: 0, gamma: 0, iota: 0, kappa: 0}, inputs: {student_feature: "student:0", '
            'teacher_feature: "teacher:0"}}',
            "beta, gamma, iota and kappa are all 0",
        ),
    ],
)
def test_a_config_is_told_of_a_loss_of_no_part(term: str, message: str) -> None:
    text = CONFIG.replace("{type: dist, params: {beta: 2}}", term)
    models = {
        name: nn.Sequential(nn.Conv1d(2, 3, 1), nn.Flatten(), nn.Linear(12, 5)) for name in ("student", "teacher")
    }
    with pytest.raises(ConfigError, match=rf"stages\.distil\.losses\.dist: .*{message}, which teaches nothing"):
        build_objective(text, models=models, example_batch={"input": torch.randn(6, 2, 4)})
