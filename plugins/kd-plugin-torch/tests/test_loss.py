"""The adapted losses against their formulas, and what the adapter adds to torch's."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from kd_plugin_torch import loss as losses
from torch import Tensor, nn

Inputs = dict[str, Tensor]


class Case(NamedTuple):
    """One loss: its inputs, params and a formula for all its values before the mean."""

    inputs: Inputs
    formula: Callable[..., Tensor]
    params: Mapping[str, Any] = MappingProxyType({})


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = random(4, 5), random(4, 5, seed=1)
SIGNS = torch.where(Y > 0, 1.0, -1.0).double()
BITS = (Y > 0).double()
LABELS = torch.tensor([0, 3, 4, 1])
FACTORS = [0.5, 1.0, 2.0, 0.0, 3.0]


def hinges(input: Tensor, target: Tensor, power: int, weight: list[float]) -> Tensor:
    rows = []
    for scores, label in zip(input, target.tolist(), strict=True):
        rest = [(1.5 - scores[label] + scores[c]).clamp(min=0) ** power for c in range(len(scores)) if c != label]
        rows.append(weight[label] * torch.stack(rest).sum() / len(scores))
    return torch.stack(rows)


def label_hinges(input: Tensor, target: Tensor) -> Tensor:
    rows = []
    for scores, labels in zip(input, target.tolist(), strict=True):
        right = list(itertools.takewhile(lambda label: label >= 0, labels))
        wrong = [c for c in range(len(scores)) if c not in right]
        each = [(1 - scores[r] + scores[w]).clamp(min=0) for r in right for w in wrong]
        rows.append(sum(each, start=torch.zeros((), dtype=torch.float64)) / len(scores))
    return torch.stack(rows)


def logistic(input: Tensor, target: Tensor, factor: Tensor | float = 1.0) -> Tensor:
    return -(factor * target * torch.sigmoid(input).log() + (1 - target) * torch.sigmoid(-input).log())


def norms(difference: Tensor, p: float) -> Tensor:
    return ((difference.abs() + 0.0) ** p).sum(-1) ** (1 / p)


CASES = {
    "MSELoss": Case({"input": X, "target": Y}, lambda x, y: (x - y) ** 2),
    "L1Loss": Case({"input": X, "target": Y}, lambda x, y: (x - y).abs()),
    "SmoothL1Loss": Case(
        {"input": X, "target": Y},
        lambda x, y: torch.where((x - y).abs() < 0.5, (x - y) ** 2 / 2 / 0.5, (x - y).abs() - 0.25),
        {"beta": 0.5},
    ),
    "HuberLoss": Case(
        {"input": X, "target": Y},
        lambda x, y: torch.where((x - y).abs() < 0.5, (x - y) ** 2 / 2, 0.5 * ((x - y).abs() - 0.25)),
        {"delta": 0.5},
    ),
    "KLDivLoss": Case(
        {"input": X.log_softmax(1), "target": Y.log_softmax(1)},
        lambda x, y: y.exp() * (y - x),
        {"log_target": True},
    ),
    "PoissonNLLLoss": Case({"log_input": X, "target": Y.abs()}, lambda log_input, y: log_input.exp() - y * log_input),
    "GaussianNLLLoss": Case(
        {"input": X, "target": Y, "var": X.square() + 0.1},
        lambda x, y, var: (var.log() + (x - y) ** 2 / var + math.log(2 * math.pi)) / 2,
        {"full": True},
    ),
    "BCELoss": Case(
        {"input": torch.sigmoid(X), "target": BITS},
        lambda x, y: -torch.tensor(FACTORS) * (y * x.log() + (1 - y) * (1 - x).log()),
        {"weight": FACTORS},
    ),
    "BCEWithLogitsLoss": Case(
        {"input": X, "target": BITS},
        lambda x, y: logistic(x, y, torch.tensor(FACTORS)),
        {"pos_weight": FACTORS},
    ),
    "SoftMarginLoss": Case({"input": X, "target": SIGNS}, lambda x, y: (1 + (-y * x).exp()).log()),
    "HingeEmbeddingLoss": Case(
        {"input": X.abs(), "target": SIGNS},
        lambda x, y: torch.where(y == 1, x, (0.7 - x).clamp(min=0)),
        {"margin": 0.7},
    ),
    "MultiLabelSoftMarginLoss": Case(
        {"input": X, "target": BITS},
        lambda x, y: (torch.tensor(FACTORS) * logistic(x, y)).mean(1),
        {"weight": FACTORS},
    ),
    "MultiMarginLoss": Case(
        {"input": X, "target": LABELS},
        lambda x, y: hinges(x, y, 2, FACTORS),
        {"p": 2, "margin": 1.5, "weight": FACTORS},
    ),
    "MultiLabelMarginLoss": Case(
        {"input": X, "target": torch.tensor([[0, 2, -1, 1, -1], [4, -1, 0, 0, 0], [-1] * 5, [0, 1, 2, 3, 4]])},
        label_hinges,
    ),
    "MarginRankingLoss": Case(
        {"input1": X, "input2": Y, "target": SIGNS},
        lambda input1, input2, y: (0.3 - y * (input1 - input2)).clamp(min=0),
        {"margin": 0.3},
    ),
    "TripletMarginLoss": Case(
        {"anchor": X, "positive": Y, "negative": random(4, 5, seed=2)},
        lambda anchor, positive, negative: (
            norms(anchor - positive + 1e-6, 3.0) - norms(anchor - negative + 1e-6, 3.0) + 2
        ).clamp(min=0),
        {"margin": 2.0, "p": 3.0},
    ),
    "CosineEmbeddingLoss": Case(
        {"input1": X, "input2": Y, "target": torch.tensor([1, -1, -1, 1])},
        lambda input1, input2, y: torch.where(
            y == 1,
            1 - (input1 * input2).sum(1) / norms(input1, 2) / norms(input2, 2),
            ((input1 * input2).sum(1) / norms(input1, 2) / norms(input2, 2) + 0.5).clamp(min=0),
        ),
        {"margin": -0.5},
    ),
}
# The inputs of the others differ in shape by nature, and torch itself compares them.
ELEMENTWISE = [name for name in CASES if name not in ("MultiMarginLoss", "MultiLabelMarginLoss", "CosineEmbeddingLoss")]

# torch advises batchmean whenever the mean is asked for.
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")


def build(name: str, **params: Any) -> nn.Module:
    built: nn.Module = getattr(losses, name)(**params)
    return built


def leaves(inputs: Inputs) -> Inputs:
    """The same inputs, the first of them asking for its gradient."""
    first = next(iter(inputs))
    return {**inputs, first: inputs[first].clone().requires_grad_()}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_follow_the_formula(name: str) -> None:
    case = CASES[name]
    inputs = leaves(case.inputs)
    first = next(iter(inputs.values()))
    values = case.formula(*inputs.values())
    for reduction, expected in (("mean", values.mean()), ("sum", values.sum())):
        value = build(name, **case.params, reduction=reduction)(**inputs)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(
            torch.autograd.grad(value, first, retain_graph=True),
            torch.autograd.grad(expected, first, retain_graph=True),
        )


@pytest.mark.parametrize("name", CASES)
def test_half_precision_is_computed_in_float32(name: str) -> None:
    case = CASES[name]
    half = {key: value.bfloat16() if value.is_floating_point() else value for key, value in case.inputs.items()}
    single = {key: value.float() if value.is_floating_point() else value for key, value in half.items()}
    loss = build(name, **case.params)
    value = loss(**half)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(**single), rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_under_a_compiler_and_by_position(name: str) -> None:
    case = CASES[name]
    loss = build(name, **case.params)
    compiled = torch.compile(copy.deepcopy(loss), backend="aot_eager")
    torch.testing.assert_close(compiled(*case.inputs.values()), loss(**case.inputs))


@pytest.mark.parametrize("name", CASES)
def test_copies_and_pickles(name: str) -> None:
    case = CASES[name]
    loss = build(name, **case.params)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(twin(**case.inputs), loss(**case.inputs))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_what_would_broadcast_is_refused(name: str) -> None:
    case = CASES[name]
    first, second = list(case.inputs)[:2]
    with pytest.raises(ValueError, match=rf"{first} has shape \(4, 5\) but {second} has \(4, 1\)"):
        build(name, **case.params)(**{**case.inputs, second: case.inputs[second][:, :1]})


@pytest.mark.parametrize("name", CASES)
def test_no_element_is_zero(name: str) -> None:
    case = CASES[name]
    inputs = leaves({key: value[:0] for key, value in case.inputs.items()})
    value = build(name, **case.params)(**inputs)
    value.backward()
    assert value.item() == 0


@pytest.mark.parametrize(
    "name", ["BCELoss", "BCEWithLogitsLoss", "SoftMarginLoss", "MultiLabelSoftMarginLoss", "MSELoss"]
)
def test_integer_targets_are_converted(name: str) -> None:
    case = CASES[name]
    target = (Y > 0).long()
    loss = build(name)
    assert torch.equal(loss(case.inputs["input"], target), loss(case.inputs["input"], target.double()))


def test_weights_are_buffers() -> None:
    loss = build("BCEWithLogitsLoss", weight=[1, 2], pos_weight=[3.5, 4])
    assert {name: buffer.tolist() for name, buffer in loss.named_buffers()} == {
        "weight": [1, 2],
        "pos_weight": [3.5, 4],
    }
    assert not list(build("BCELoss").buffers())


@pytest.mark.parametrize("name", CASES)
def test_only_scalars_come_out(name: str) -> None:
    with pytest.raises(ValueError, match="'none'; it must be one of mean, sum"):
        build(name, reduction="none")


def test_batchmean_is_for_kl_div_alone() -> None:
    case = CASES["KLDivLoss"]
    value = build("KLDivLoss", log_target=True, reduction="batchmean")(**case.inputs)
    torch.testing.assert_close(value, case.formula(*case.inputs.values()).sum() / 4)
    with pytest.raises(ValueError, match="'batchmean'"):
        build("MSELoss", reduction="batchmean")


@pytest.mark.parametrize("name", ["MSELoss", "CTCLoss"])
def test_deprecated_and_unknown_params_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match="sizes_average"):
        build(name, sizes_average=True)


def test_missing_and_surplus_inputs_are_refused() -> None:
    loss = build("MSELoss")
    with pytest.raises(TypeError, match="missing a required argument: 'target'"):
        loss(input=X)
    with pytest.raises(TypeError, match="too many positional arguments"):
        loss(X, Y, X)


def test_cosine_of_sequences_without_a_target() -> None:
    hidden, other = random(2, 3, 5), random(2, 3, 5, seed=1)
    pairs = zip(hidden.flatten(0, 1), other.flatten(0, 1), strict=True)
    expected = [1 - (a @ b) / (a @ a * (b @ b)).sqrt() for a, b in pairs]
    torch.testing.assert_close(build("CosineEmbeddingLoss")(hidden, other), torch.stack(expected).mean())
    with pytest.raises(ValueError, match=r"target has shape \(2,\).*one entry per embedding, \(2, 3\)"):
        build("CosineEmbeddingLoss")(hidden, other, torch.ones(2))


def test_cosine_of_zero_vectors_is_finite() -> None:
    zeros = torch.zeros(2, 5, requires_grad=True)
    value = build("CosineEmbeddingLoss")(zeros, torch.zeros(2, 5))
    value.backward()
    assert value.item() == 1
    assert zeros.grad is not None
    assert zeros.grad.isfinite().all()


def test_ctc_sums_over_all_alignments() -> None:
    log_probs = random(3, 1, 3).log_softmax(-1)
    # A sequence of 3 frames says [1, 2] if it collapses to it: repeats merge, then blanks (0) go.
    likelihood = torch.zeros((), dtype=torch.float64)
    for path in itertools.product(range(3), repeat=3):
        if [label for label, _ in itertools.groupby(path) if label] == [1, 2]:
            likelihood = likelihood + torch.stack([log_probs[t, 0, label] for t, label in enumerate(path)]).sum().exp()
    lengths = {"input_lengths": torch.tensor([3]), "target_lengths": torch.tensor([2])}
    value = build("CTCLoss", reduction="sum")(log_probs=log_probs, targets=torch.tensor([[1, 2]]), **lengths)
    torch.testing.assert_close(value, -likelihood.log())
    impossible = {"input_lengths": torch.tensor([3]), "target_lengths": torch.tensor([3])}
    value = build("CTCLoss", zero_infinity=True)(log_probs.bfloat16(), torch.tensor([[1, 1, 1]]), **impossible)
    assert value.item() == 0
