import copy

import pytest
import torch
from kd_plugin_adapters.conv import Conv1x1Adapter, ConvAdapter
from kd_plugin_adapters.linear import LinearAdapter, MLPAdapter
from kd_plugin_adapters.matcher import FeatureMatcher

from kdcore.contracts import Facts, TensorFacts

# Per adapter: its class, a shape of x and one of `like`.
SIZED = {
    "linear": (LinearAdapter, (3, 5, 8), (3, 5, 12)),
    "mlp": (MLPAdapter, (3, 8), (3, 12)),
    "conv1x1": (Conv1x1Adapter, (3, 8, 6, 6), (3, 12, 6, 6)),
    "conv": (ConvAdapter, (3, 8, 6, 6), (3, 12, 3, 3)),
    "feature_matcher": (FeatureMatcher, (3, 8, 5), (3, 12, 5)),
}


def facts(x, like=None):
    as_facts = lambda shape: TensorFacts(shape, torch.float32)  # noqa: E731
    return Facts(inputs={"x": as_facts(x)}, like=None if like is None else as_facts(like))


@pytest.fixture(params=SIZED)
def kind(request):
    return request.param


def test_setup_takes_sizes_from_x_and_like(kind):
    make, x, like = SIZED[kind]
    adapter = make()
    assert list(adapter.parameters()) == []
    adapter.setup(facts(x, like))
    assert adapter(torch.randn(x)).shape == like


def test_every_parameter_exists_after_setup_and_gets_a_gradient(kind):
    make, x, like = SIZED[kind]
    adapter = make()
    adapter.setup(facts(x, like))
    before = [id(parameter) for parameter in adapter.parameters()]
    input = torch.randn(x, requires_grad=True)
    adapter(input).square().sum().backward()
    assert before == [id(parameter) for parameter in adapter.parameters()]
    for tensor in [input, *adapter.parameters()]:
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0


def test_setup_again_with_the_same_sizes_keeps_the_parameters(kind):
    make, x, like = SIZED[kind]
    adapter = make()
    adapter.setup(facts(x, like))
    before = {name: (parameter, parameter.clone()) for name, parameter in adapter.named_parameters()}
    adapter.setup(facts((7, *x[1:]), (7, *like[1:])))  # another batch size is no other size
    for name, parameter in adapter.named_parameters():
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])


def test_setup_again_with_other_sizes_is_refused(kind):
    make, x, like = SIZED[kind]
    adapter = make()
    adapter.setup(facts(x, like))
    other = [size + 1 if old != new else size for size, old, new in zip(like, x, like, strict=True)]
    with pytest.raises(ValueError, match=rf"{kind} has parameters for .* and cannot change to .* one adapter per"):
        adapter.setup(facts(x, tuple(other)))


def test_use_before_setup_is_refused(kind):
    make, x, _ = SIZED[kind]
    with pytest.raises(ValueError, match=rf"{kind} was used before setup\(facts\) .* call setup first, or give"):
        make()(torch.randn(x))


def test_without_like_the_error_names_both_remedies(kind):
    make, x, _ = SIZED[kind]
    with pytest.raises(ValueError, match=rf"{kind} does not know its \w+; give like:.* or"):
        make().setup(facts(x))


def test_x_must_be_one_tensor(kind):
    make, _, like = SIZED[kind]
    listed = Facts(inputs={"x": [TensorFacts((3, 8), torch.float32)]}, like=TensorFacts(like, torch.float32))
    with pytest.raises(ValueError, match="x must be one tensor, found list; pick one with #key"):
        make().setup(listed)


def test_state_dict_round_trip(kind):
    make, x, like = SIZED[kind]
    first, second = make(), make()
    first.setup(facts(x, like))
    second.setup(facts(x, like))
    second.load_state_dict(first.state_dict())
    input = torch.randn(x)
    assert torch.equal(first.eval()(input), second.eval()(input))


def test_a_copy_is_set_up_on_its_own(kind):
    make, x, like = SIZED[kind]
    original = make()
    copied = copy.deepcopy(original)
    copied.setup(facts(x, like))
    assert list(original.parameters()) == []
    assert copied(torch.randn(x)).shape == like


def test_parameters_have_the_default_dtype(kind):
    make, x, like = SIZED[kind]
    adapter = make()
    torch.set_default_dtype(torch.float64)
    try:
        adapter.setup(facts(x, like))
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.float64}
    assert adapter(torch.randn(x, dtype=torch.float64)).dtype == torch.float64


def test_bfloat16(kind):
    make, x, like = SIZED[kind]
    adapter = make()
    adapter.setup(facts(x, like))
    output = adapter.bfloat16()(torch.randn(x).bfloat16())
    assert output.dtype == torch.bfloat16
    assert output.isfinite().all()


@pytest.mark.parametrize(
    ("make", "given", "x"),
    [
        (LinearAdapter, {"in_features": 8, "out_features": 12}, (3, 8)),
        (MLPAdapter, {"in_features": 8, "out_features": 12}, (3, 8)),
        (Conv1x1Adapter, {"in_channels": 8, "out_channels": 12, "spatial_dims": 1}, (3, 8, 5)),
        (ConvAdapter, {"in_channels": 8, "out_channels": 12, "spatial_dims": 2, "kernel_size": 1}, (3, 8, 5, 5)),
        (FeatureMatcher, {"dim": 1, "in_features": 8, "out_features": 12}, (3, 8, 5)),
    ],
)
def test_explicit_sizes_need_no_setup_and_override_like(make, given, x):
    adapter = make(**given)
    before = dict(adapter.named_parameters())
    assert before
    expected = (3, 12, *x[2:])
    assert adapter(torch.randn(x)).shape == expected
    adapter.setup(facts(x, (3, 99, *x[2:])))
    assert adapter(torch.randn(x)).shape == expected
    assert all(parameter is before[name] for name, parameter in adapter.named_parameters())


@pytest.mark.parametrize(
    ("make", "given"),
    [
        (LinearAdapter, {"in_features": 9}),
        (MLPAdapter, {"in_features": 9}),
        (Conv1x1Adapter, {"in_channels": 9}),
        (ConvAdapter, {"in_channels": 9}),
        (FeatureMatcher, {"in_features": 9}),
    ],
)
def test_an_explicit_size_that_x_contradicts_is_refused(make, given):
    (name,) = given
    with pytest.raises(ValueError, match=rf"{name} is 9 but x has shape \(3, 8, 8\), 8 along dimension -?1; leave"):
        make(**given).setup(facts((3, 8, 8), (3, 12, 8)))


def test_out_features_alone_needs_no_like():
    adapter = LinearAdapter(out_features=5)
    adapter.setup(facts((3, 8)))
    assert adapter(torch.randn(3, 8)).shape == (3, 5)


def test_sizes_must_be_positive():
    with pytest.raises(ValueError, match="out_features must be 1 or more, found 0"):
        LinearAdapter(8, 0)
    with pytest.raises(ValueError, match="in_channels must be 1 or more, found -1"):
        ConvAdapter(-1)


def test_x_that_is_not_bound_names_the_remedies():
    with pytest.raises(ValueError, match="linear does not know its in_features; bind x under inputs:, or give"):
        LinearAdapter(out_features=4).setup(Facts())
