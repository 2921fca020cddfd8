"""`ickd` against the paper's form and the values of an earlier system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kd_plugin_ickd.correlation import WORTHWHILE, by_channels, few_positions, squared_difference
from kd_plugin_ickd.embed import ICKDEmbed
from kd_plugin_ickd.loss import ICKDLoss
from kd_plugin_ickd.positions import by_positions
from torch import Tensor, nn

from kdcore import build_objective, create
from kdcore.contracts import Facts, TensorFacts
from kdcore.errors import ConfigError

from .textbook import correlations, ickd

GOLDEN = {
    key: torch.tensor(value, dtype=torch.float64)
    for key, value in json.loads(Path(__file__).with_name("golden.json").read_text()).items()
}
SMALL = """
version: 1
name: small
models: {student: {}, teacher: {}}
adapters: {embed: {type: ickd_embed, inputs: {x: "student:0"}, like: "teacher:0"}}
stages:
  - name: only
    train: [student, embed]
    losses:
      ickd: {type: ickd, inputs: {student: embed, teacher: "teacher:0"}}
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


# Many positions and few; in a batch of 4 the C x C correlations of the last two are never made.
SHAPES = [(6, 5, 5), (12, 3), (128, 3), (130, 1, 2, 2)]


def features(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, *shape, generator=generator, dtype=dtype) for _ in range(2))
    return student.requires_grad_(), teacher


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("exponent", [1, 2])
@pytest.mark.parametrize("scale", [1, 1000])
def test_value_and_gradient_are_the_textbooks(shape: tuple[int, ...], exponent: int, scale: float) -> None:
    student, teacher = features(shape)
    loss, expected = ICKDLoss(exponent)(scale * student, teacher), ickd(scale * student, teacher, exponent)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student), atol=1e-12, rtol=1e-7)


def test_golden() -> None:
    student = GOLDEN["student"].clone().requires_grad_()
    loss = ICKDLoss(batch_exponent=2)(student, GOLDEN["teacher"])
    torch.testing.assert_close(loss, GOLDEN["value"])
    torch.testing.assert_close(gradient(loss, student), GOLDEN["grad"])


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("channels", [1, 2, 7, 40])
@pytest.mark.parametrize("positions", [1, 2, 9, 41])
def test_both_forms_are_the_textbooks_at_every_size(batch: int, channels: int, positions: int) -> None:
    student, teacher = (side[0].detach() for side in features((batch, channels, positions)))
    student.requires_grad_()
    expected = (correlations(student) - correlations(teacher)).square().sum()
    wanted = gradient(expected, student)
    for form in (by_channels, by_positions):
        found = torch.full_like(student, torch.nan)
        with torch.no_grad():
            value = form(student, teacher, found)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


# On both sides of each boundary: 4 n against C, and the numbers of B C^2.
@pytest.mark.parametrize(
    ("shape", "few"),
    [((4, 128, 32), True), ((4, 128, 33), False), ((4, 127, 31), False), ((1, 256, 4), True), ((1, 255, 4), False)],
)
def test_the_boundary_of_few_positions(shape: tuple[int, ...], few: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()
    assert few_positions(student, teacher) == few
    loss, expected = (
        squared_difference(student, teacher),
        (correlations(student) - correlations(teacher)).square().sum(),
    )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student), rtol=1e-9, atol=1e-12)


def test_maps_of_different_sizes_are_compared_by_channels() -> None:
    student, teacher = features((128, 3))[0], features((128, 5))[1]
    assert student.numel() // student.shape[2] * student.shape[1] == WORTHWHILE
    assert not few_positions(student, teacher)
    loss, expected = ICKDLoss()(student, teacher), ickd(student, teacher)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student), atol=1e-12, rtol=1e-7)


@pytest.mark.parametrize("shape", [(512, 49), (64, 784)])
def test_blocks_of_samples_give_what_the_samples_do(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(4)
    student, teacher = (torch.randn(20, *shape, generator=generator) for _ in range(2))
    student.requires_grad_()
    loss = ICKDLoss()(student, teacher)
    each = torch.stack([ICKDLoss()(student[i : i + 1], teacher[i : i + 1]) for i in range(20)]).mean()
    torch.testing.assert_close(loss, each)
    torch.testing.assert_close(gradient(loss, student), gradient(each, student))


@pytest.mark.parametrize("shape", [(2, 6, 5, 5), (2, 12, 3), (1, 256, 1)])
def test_gradcheck(shape: tuple[int, ...]) -> None:
    student, teacher = (side[: shape[0]].detach() for side in features(shape[1:]))
    assert torch.autograd.gradcheck(lambda student: ICKDLoss()(student, teacher), (student.requires_grad_(),))


@pytest.mark.parametrize("shape", SHAPES[1:3])
def test_there_is_no_second_derivative_in_silence(shape: tuple[int, ...]) -> None:
    student, teacher = features(shape)
    (found,) = torch.autograd.grad(ICKDLoss()(student, teacher), student, create_graph=True)
    with pytest.raises(RuntimeError, match="makes its gradient in closed form"):
        found.sum().backward()


@pytest.mark.parametrize("shape", SHAPES[1:3])
def test_autocast_changes_nothing(shape: tuple[int, ...]) -> None:
    student, teacher = features(shape, dtype=torch.float32)
    expected = ICKDLoss()(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ICKDLoss()(student, teacher)
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student), rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_equality_is_zero_with_zero_gradient(shape: tuple[int, ...]) -> None:
    student, _ = features(shape)
    loss = ICKDLoss()(student, student)
    assert loss.item() == 0
    assert not gradient(loss, student).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sides", ["student", "teacher", "both", "one channel"])
def test_zeros_are_finite_and_pull_gently(shape: tuple[int, ...], sides: str) -> None:
    student, teacher = features(shape)
    if sides == "one channel":
        student = torch.cat([student[:, :1] * 0, student[:, 1:]], 1)
    else:
        student, teacher = student * (sides == "teacher"), teacher * (sides == "student")
    student = student.detach().requires_grad_()
    loss = ICKDLoss()(student, teacher)
    assert loss.isfinite()
    assert gradient(loss, student).abs().max() < 10
    assert (loss == 0) == (sides == "both")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_dead_channel_costs_what_its_row_of_zeros_does(shape: tuple[int, ...]) -> None:
    student, teacher = (side.detach() for side in features(shape))
    student[:, 0] = 0
    gram = torch.bmm(student.flatten(2), student.flatten(2).mT)
    rows = torch.nn.functional.normalize(gram, dim=2)
    expected = (rows - correlations(teacher)).square().sum() / (4 * shape[0])
    torch.testing.assert_close(ICKDLoss()(student, teacher), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-3, 1.0])
def test_float32_near_equality(shape: tuple[int, ...], size: float) -> None:
    student, _ = features(shape, dtype=torch.float32)
    noise = torch.randn(student.shape, generator=torch.Generator().manual_seed(2))
    teacher = 100 * (student.detach() + size * noise)
    exact = student.detach().double().requires_grad_()
    loss, expected = ICKDLoss()(student, teacher), ickd(exact, teacher.double())
    torch.testing.assert_close(loss.double(), expected, rtol=2e-3, atol=0)
    torch.testing.assert_close(gradient(loss, student).double(), gradient(expected, exact), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (side.detach().to(dtype) for side in features((6, 5)))
    large = (500 * student).requires_grad_()
    loss = ICKDLoss()(large, teacher)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ICKDLoss()(large.float(), teacher.float()), rtol=0, atol=0)
    assert gradient(loss, large).dtype == dtype


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = features((6, 5))
    ICKDLoss()(student, teacher.requires_grad_()).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\) but teacher has \(2, 5, 4, 4\); .* adapter ickd_embed"):
        ICKDLoss()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
    with pytest.raises(ValueError, match="student has 2 rows, teacher has 3 rows"):
        ICKDLoss()(torch.zeros(2, 3, 4), torch.zeros(3, 3, 4))
    with pytest.raises(ValueError, match=r"teacher has shape \(2, 3\); 3 to 5 dimensions"):
        ICKDLoss()(torch.zeros(2, 3, 4), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="batch_exponent is 3; it must be 1 or 2"):
        ICKDLoss(3)
    with pytest.raises(ValueError, match="kernel_size is 2; it must be odd"):
        ICKDEmbed(kernel_size=2)


@pytest.mark.parametrize(("param", "value"), [("batch_exponent", 3), ("batch_exponents", 1)])
def test_create_refuses_wrong_params(param: str, value: object) -> None:
    with pytest.raises(ConfigError, match=param):
        create("loss", "ickd", **{param: value})


def facts(x: tuple[int, ...], like: tuple[int, ...] | None = None) -> Facts:
    described = None if like is None else TensorFacts(like, torch.float32)
    return Facts(inputs={"x": TensorFacts(x, torch.float32)}, like=described)


def test_the_adapter_takes_its_channels_from_x_and_like() -> None:
    adapter = ICKDEmbed()
    adapter.setup(facts((5, 3, 4, 4), (5, 7, 2, 2)))
    parameters = list(adapter.parameters())
    assert adapter(torch.randn(2, 3, 4, 4)).shape == (2, 7, 4, 4)
    adapter.setup(facts((9, 3, 4, 4), (9, 7, 2, 2)))
    assert all(before is after for before, after in zip(parameters, adapter.parameters(), strict=True))
    again = ICKDEmbed(3, 7)
    again.load_state_dict(adapter.state_dict())
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(again(x), adapter(x))


def test_an_adapter_that_lacks_a_size() -> None:
    with pytest.raises(ValueError, match="ickd_embed does not know its out_channels; give like:"):
        ICKDEmbed().setup(facts((5, 3, 4, 4)))
    with pytest.raises(ValueError, match="ickd_embed does not know its in_channels; bind x"):
        ICKDEmbed(out_channels=3).setup(Facts())
    with pytest.raises(ValueError, match=r"in_channels is 4 but x has shape \(5, 3, 4, 4\)"):
        ICKDEmbed(4, 2).setup(facts((5, 3, 4, 4)))
    with pytest.raises(ValueError, match=r"x has shape \(5, 3\); ickd_embed takes feature maps"):
        ICKDEmbed().setup(facts((5, 3)))
    with pytest.raises(ValueError, match="ickd_embed was used before setup"):
        ICKDEmbed()(torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match="out_channels must be 1 or more, found 0"):
        ICKDEmbed(out_channels=0)


def test_a_config_cannot_ask_for_no_channels() -> None:
    with pytest.raises(ConfigError, match="out_channels"):
        create("adapter", "ickd_embed", out_channels=0)


def test_in_an_objective(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    objective = build_objective(config, models=nets(), example_batch=batch_of(4))
    out = objective(batch_of(4))
    out.total.backward()
    assert out.terms["ickd"] > 0
    learned = {key: each for key, each in objective.named_trainable() if "embed" in key}
    assert len(learned) == 3
    assert all(each.grad is not None and each.grad.isfinite().all() for each in learned.values())
