import json
from pathlib import Path

import pytest
import torch
from kd_plugin_adapters.matcher import FeatureMatcher

from kdcore.contracts import Facts, TensorFacts

GOLDEN = json.loads(Path(__file__).with_name("matcher.json").read_text())["cases"]


def set_up(x, like, **params):
    adapter = FeatureMatcher(**params)
    adapter.setup(Facts(inputs={"x": TensorFacts(x, torch.float32)}, like=TensorFacts(like, torch.float32)))
    return adapter


@pytest.mark.parametrize(
    ("x", "like", "dim"),
    [
        ((4, 3), (4, 5), 1),
        ((2, 4, 6), (2, 7, 6), 1),
        ((2, 4, 6), (2, 4, 3), 2),
        ((2, 3, 4, 4), (2, 8, 4, 4), 1),
        ((2, 3, 4, 5), (8, 3, 4, 6), 3),
    ],
)
def test_finds_the_dimension_that_differs(x, like, dim):
    adapter = set_up(x, like)
    assert adapter.sizes["dim"] == dim
    assert adapter(torch.randn(x)).shape == (x[0], *like[1:])


@pytest.mark.parametrize("case", GOLDEN)
def test_agrees_with_neural_compressor(case):
    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in case.items() if name != "dim"}
    student = tensors["student"].requires_grad_()
    adapter = set_up(tuple(student.shape), tuple(tensors["teacher"].shape)).double()
    assert adapter.sizes["dim"] == case["dim"]
    adapter.load_state_dict({"body.weight": tensors["weight"], "body.bias": tensors["bias"]})
    loss = (adapter(student) - tensors["teacher"]).abs().mean()
    loss.backward()
    torch.testing.assert_close(loss.detach(), tensors["loss"])
    torch.testing.assert_close(student.grad, tensors["student_grad"])
    torch.testing.assert_close(adapter.body.weight.grad, tensors["weight_grad"])
    torch.testing.assert_close(adapter.body.bias.grad, tensors["bias_grad"])


def test_value_against_the_definition():
    adapter = set_up((2, 3, 4), (2, 5, 4)).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    expected = torch.einsum("oc,bct->bot", adapter.body.weight, x) + adapter.body.bias[None, :, None]
    torch.testing.assert_close(adapter(x), expected)


def test_equal_shapes_need_no_map():
    adapter = set_up((2, 3, 4), (2, 3, 4))
    x = torch.randn(2, 3, 4)
    assert adapter(x) is x
    assert list(adapter.parameters()) == []
    adapter.setup(
        Facts(inputs={"x": TensorFacts((2, 3, 4), torch.float32)}, like=TensorFacts((2, 3, 4), torch.float32))
    )


def test_a_given_dimension_is_mapped_even_where_others_differ():
    assert set_up((2, 3, 4), (2, 5, 6), dim=-1)(torch.randn(2, 3, 4)).shape == (2, 3, 6)


def test_two_differing_dimensions_are_refused():
    match = r"x has shape \(2, 3, 4\) but like has \(2, 5, 6\): dimensions 1, 2 differ and feature_matcher maps one"
    with pytest.raises(ValueError, match=match):
        set_up((2, 3, 4), (2, 5, 6))


def test_different_ranks_are_refused():
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 4\) but like has \(2, 3\); .*see flatten, pool, select"):
        set_up((2, 3, 4), (2, 3))


def test_the_batch_is_never_mapped():
    with pytest.raises(ValueError, match="dim is 0, the batch"):
        FeatureMatcher(dim=0)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3\); dim=-2 is the batch"):
        set_up((2, 3), (4, 3), dim=-2)


def test_is_trained():
    torch.manual_seed(0)
    adapter = set_up((8, 3), (8, 5))
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    x, target = torch.randn(8, 3), torch.randn(8, 5)
    losses = []
    for _ in range(20):
        loss = (adapter(x) - target).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
