"""`kta` and `affinity` against the paper's equations and the values of an earlier system."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kd_plugin_kta.affinity import AffinityLoss
from kd_plugin_kta.convolution import AffinityAdapter, KTAAdapter
from kd_plugin_kta.loss import KTALoss
from torch import Tensor, nn

import kdcore
from kdcore.contracts import Facts, TensorFacts

from . import textbook

GOLDEN = torch.load(Path(__file__).with_name("golden.pt"), weights_only=True)
LOSSES = [KTALoss(), KTALoss(2), AffinityLoss(), AffinityLoss("channel")]
AXES = {"position": textbook.by_position, "channel": textbook.by_channel}


def maps(*shape: int, channels: int | None = None, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(*shape, generator=generator, dtype=dtype)
    teacher = torch.randn(shape[0], channels or shape[1], *shape[2:], generator=generator, dtype=dtype)
    return student.requires_grad_(), teacher


def agree(value: Tensor, expected: Tensor, student: Tensor) -> None:
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(each, student)[0] for each in (value, expected)))


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("q", [1, 2])
def test_kta_follows_the_textbook(p: float, q: float) -> None:
    student, teacher = maps(3, 4, 2, 2)
    agree(KTALoss(p, q)(student, teacher), textbook.kta(student, teacher, p, q), student)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("shape", [(3, 4, 3, 4), (2, 5, 4), (1, 9, 2, 1, 2), (2, 1, 3, 3), (2, 3, 1, 1)])
def test_affinity_follows_the_textbook(axis: str, shape: tuple[int, ...]) -> None:
    student, teacher = maps(*shape)
    if shape[2:] == (1, 1):  # one position: both matrices are 1, and value and gradient are 0 up to rounding
        assert AffinityLoss(axis)(student, teacher) < (1e-7 if axis == "position" else 2 * shape[1])
        return
    value = AffinityLoss(axis)(student, teacher)
    agree(value, AXES[axis](student, teacher), student)
    torch.testing.assert_close(AffinityLoss(axis, "sum")(student, teacher), shape[0] * value)


@pytest.mark.parametrize("channels", [2, 7, 20])
def test_positions_are_compared_across_any_channels(channels: int) -> None:
    student, teacher = maps(2, 4, 3, 3, channels=channels)
    agree(AffinityLoss()(student, teacher), textbook.by_position(student, teacher), student)


# Channels on both sides of the number of positions, which decides between the forms.
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("positions", [2, 9, 40])
@pytest.mark.parametrize("more", [-1, 0, 1, 30])
@pytest.mark.parametrize("teacher_more", [0, 3, -1])
def test_positions_follow_the_textbook_at_every_size(batch: int, positions: int, more: int, teacher_more: int) -> None:
    channels = positions + more
    student, teacher = maps(batch, channels, positions, channels=max(1, channels + teacher_more))
    value, expected = AffinityLoss()(student, teacher), textbook.by_position(student, teacher)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-15)
    gradient, wanted = (torch.autograd.grad(each, student)[0] for each in (value, expected))
    torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 6, 4)])
def test_gradcheck_of_positions(shape: tuple[int, ...]) -> None:
    student, teacher = maps(*shape)
    assert torch.autograd.gradcheck(lambda student: AffinityLoss()(student, teacher), (student,))


@pytest.mark.parametrize("shape", [(20, 512, 49), (20, 64, 784)])
def test_blocks_of_samples_give_what_the_samples_do(shape: tuple[int, ...]) -> None:
    student, teacher = maps(*shape, dtype=torch.float32)
    each = torch.stack([AffinityLoss()(student[i : i + 1], teacher[i : i + 1]) for i in range(20)]).mean()
    agree(AffinityLoss()(student, teacher), each, student)


def test_a_dead_position_has_the_textbooks_gradient() -> None:
    student, teacher = (each.detach() for each in maps(2, 3, 2, 3))
    student[:, :, 0, 1], teacher[:, :, 1, 2] = 0, 0
    student.requires_grad_()
    agree(AffinityLoss()(student, teacher), textbook.by_position(student, teacher), student)


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 6, 4)])
def test_equal_maps_have_a_distance_and_a_gradient_of_zero(shape: tuple[int, ...]) -> None:
    student, _ = maps(*shape, dtype=torch.float32)
    value = AffinityLoss()(student, student)
    assert value.item() == 0
    assert not torch.autograd.grad(value, student)[0].any()


def test_there_is_no_second_derivative_of_positions_in_silence() -> None:
    student, teacher = maps(2, 3, 5)
    (found,) = torch.autograd.grad(AffinityLoss()(student, teacher), student, create_graph=True)
    with pytest.raises(RuntimeError, match="makes its gradient in closed form"):
        found.sum().backward()


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 6, 4)])
def test_autocast_changes_nothing_between_positions(shape: tuple[int, ...]) -> None:
    student, teacher = maps(*shape, dtype=torch.float32)
    expected = AffinityLoss()(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = AffinityLoss()(student, teacher)
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    agree(value, expected, student)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("shape", [(2, 4, 5, 5), (2, 30, 3, 3)])
@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-4])
def test_near_equality_float32_keeps_its_digits(axis: str, shape: tuple[int, ...], distance: float) -> None:
    student, teacher = maps(*shape)
    student = (teacher + distance * student.detach()).float().requires_grad_()
    exact = student.detach().double().requires_grad_()
    value = AffinityLoss(axis)(student, teacher.float())
    expected = AXES[axis](exact, teacher.float().double())
    (gradient,) = torch.autograd.grad(value, student)
    (reference,) = torch.autograd.grad(expected, exact)
    torch.testing.assert_close(value.double(), expected, rtol=2e-6 / distance + 1e-5, atol=0)
    assert (gradient - reference).norm() < (1e-5 / distance + 1e-5) * reference.norm()


def test_golden() -> None:
    for loss, golden in ((KTALoss(), GOLDEN["kta"]), (AffinityLoss("channel"), GOLDEN["affinity"])):
        student = golden["student"].clone().requires_grad_()
        value = loss(student, golden["teacher"])
        torch.testing.assert_close(value, golden["value"])
        torch.testing.assert_close(torch.autograd.grad(value, student)[0], golden["grad"])


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("sides", ["student", "teacher", "both", "channels", "none"])
def test_zeros_equality_and_one_sample_are_finite(loss: nn.Module, sides: str) -> None:
    student, teacher = (each.detach() for each in maps(1, 3, 2, 2, dtype=torch.float32))
    if sides in ("student", "both"):
        student = torch.zeros_like(student)
    if sides in ("teacher", "both"):
        teacher = torch.zeros_like(teacher)
    if sides == "channels":
        student[:, 1], teacher[:, 2] = 0, 0
    if sides == "none":
        teacher = student.clone()
    student.requires_grad_()
    value = loss(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 10
    if sides in ("both", "none"):
        assert value < 1e-6


def test_a_dead_channel_has_the_textbooks_gradient() -> None:
    student, teacher = (each.detach() for each in maps(2, 3, 2, 2))
    student[:, 1], teacher[:, 2] = 0, 0
    student.requires_grad_()
    agree(AffinityLoss("channel")(student, teacher), textbook.by_channel(student, teacher), student)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_and_the_teacher(loss: nn.Module, dtype: torch.dtype) -> None:
    student, teacher = (300 * each.detach().to(dtype) for each in maps(2, 3, 2, 2))
    student.requires_grad_(), teacher.requires_grad_()
    value = loss(student, teacher)
    assert torch.equal(value, loss(student.float(), teacher.float()))
    value.backward()
    assert teacher.grad is None
    assert student.grad.isfinite().all()


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"student has shape \(2, 3\) but teacher has \(2, 4\)"):
        KTALoss()(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"spatial sizes must be equal: .*resize"):
        AffinityLoss()(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match=r"teacher has \(2, 4, 4\)"):
        AffinityLoss("channel")(torch.zeros(2, 3, 4), torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match=r"student has shape \(2, 3\); 3 to 5 dimensions"):
        AffinityLoss()(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="student has 2 rows, teacher has 1 rows"):
        AffinityLoss()(torch.zeros(2, 3, 4), torch.zeros(1, 3, 4))


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("kta", {"p": 0.5}, "p is 0.5; it must be 1 or more"),
        ("kta", {"reduction": "none"}, "'none'; it must be one of mean, sum"),
        ("kta", {"eps": -1}, "eps is -1; it must be 0 or more"),
        ("affinity", {"axis": "space"}, "'space'; it must be one of position, channel"),
    ],
)
def test_wrong_params(name: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        {"kta": KTALoss, "affinity": AffinityLoss}[name](**params)
    with pytest.raises(kdcore.KdcoreError, match=next(iter(params))):
        kdcore.create("loss", name, **params)


@pytest.mark.parametrize("make", [KTAAdapter, AffinityAdapter])
def test_the_adapters(make: type[AffinityAdapter]) -> None:
    x, like = TensorFacts((2, 3, 4, 5), torch.float32), TensorFacts((2, 7, 4, 5), torch.float32)
    adapter = make()
    with pytest.raises(ValueError, match="used before setup"):
        adapter(torch.zeros(2, 3, 4, 5))
    with pytest.raises(ValueError, match="does not know its out_channels; give like:"):
        adapter.setup(Facts(inputs={"x": x}))
    adapter.setup(Facts(inputs={"x": x}, like=like))
    weights = [*adapter.parameters()]
    adapter.setup(Facts(inputs={"x": x}, like=like))
    assert all(one is other for one, other in zip(weights, adapter.parameters(), strict=True))
    output = adapter(torch.randn(2, 3, 4, 5))
    assert output.shape == (2, 7, 4, 5)
    assert bool((output >= 0).all()) == (make is KTAAdapter)
    with pytest.raises(ValueError, match=r"in_channels is 9 but x has shape \(2, 3, 4, 5\)"):
        make(9, 2).setup(Facts(inputs={"x": x}))
    with pytest.raises(ValueError, match=r"x is \(2, 3\); .*needs one feature map"):
        make().setup(Facts(inputs={"x": TensorFacts((2, 3), torch.float32)}))
    with pytest.raises(ValueError, match="kernel_size is 2; it must be odd"):
        make(kernel_size=2)


CONFIG = """
version: 1
name: tiny
models: {teacher: {}, student: {}}
adapters:
  code: {type: kta_adapter, inputs: {x: student:0}, like: teacher:0}
  wide: {type: affinity_adapter, inputs: {x: student:0}, like: teacher:0}
stages:
  - name: distilled
    train: [student, code, wide]
    losses:
      kta: {type: kta, inputs: {student: code, teacher: teacher:0}}
      affinity: {type: affinity, inputs: {student: wide, teacher: teacher:0}}
"""


def test_in_a_config(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(CONFIG)
    models = {name: nn.Sequential(nn.Conv2d(1, width, 3)) for name, width in (("teacher", 4), ("student", 2))}
    batch = {"input": torch.randn(3, 1, 6, 6)}
    objective = kdcore.build_objective(file, models=models, example_batch=batch)
    objective(batch).total.backward()
    learned = [name for name, each in objective.named_trainable() if each.grad is not None and each.grad.any()]
    assert {part for part in ("student.", "code.", "wide.", "teacher.") if any(part in name for name in learned)} == {
        "student.",
        "code.",
        "wide.",
    }
