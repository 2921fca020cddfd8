import pytest
import torch
from kd_plugin_adapters.linear import LinearAdapter, MLPAdapter
from torch import nn


def test_linear_acts_on_the_last_dimension():
    adapter = LinearAdapter(4, 3).double()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    weight, bias = adapter.body.weight, adapter.body.bias
    expected = torch.stack([torch.stack([weight @ row + bias for row in rows]) for rows in x])
    torch.testing.assert_close(adapter(x), expected)


def test_linear_without_bias():
    assert [name for name, _ in LinearAdapter(4, 3, bias=False).named_parameters()] == ["body.weight"]


def layers(adapter):
    return [(each.in_features, each.out_features) for each in adapter.body if isinstance(each, nn.Linear)]


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [
        (None, [(4, 6), (6, 6)]),
        (5, [(4, 5), (5, 6)]),
        ([5, 7], [(4, 5), (5, 7), (7, 6)]),
        ([], [(4, 6)]),
    ],
)
def test_mlp_layers(hidden, expected):
    assert layers(MLPAdapter(4, 6, hidden)) == expected


def test_mlp_value():
    adapter = MLPAdapter(4, 3, 5).double()
    first, activation, last = adapter.body
    assert isinstance(activation, nn.ReLU)
    x = torch.randn(2, 4, dtype=torch.float64)
    hidden = (x @ first.weight.T + first.bias).clamp(min=0)
    torch.testing.assert_close(adapter(x), hidden @ last.weight.T + last.bias)


@pytest.mark.parametrize(("name", "kind"), [("gelu", nn.GELU), ("silu", nn.SiLU), ("tanh", nn.Tanh)])
def test_mlp_activation(name, kind):
    assert isinstance(MLPAdapter(4, 3, activation=name).body[1], kind)


def test_mlp_refuses_an_unknown_activation_and_an_empty_layer():
    with pytest.raises(ValueError, match="activation must be one of relu, gelu, silu, tanh, found 'swish'"):
        MLPAdapter(4, 3, activation="swish")
    with pytest.raises(ValueError, match="hidden_features must be 1 or more, found 0"):
        MLPAdapter(4, 3, [5, 0])


@pytest.mark.parametrize("make", [LinearAdapter, MLPAdapter])
def test_gradcheck(make):
    adapter = make(4, 3).double()
    assert torch.autograd.gradcheck(adapter, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))
