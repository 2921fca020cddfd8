import pytest
import torch
from kd_plugin_adapters.conv import Conv1x1Adapter, ConvAdapter
from torch import nn

from kdcore.contracts import Facts, TensorFacts


def facts(x, like=None):
    as_facts = lambda shape: TensorFacts(shape, torch.float32)  # noqa: E731
    return Facts(inputs={"x": as_facts(x)}, like=None if like is None else as_facts(like))


def set_up(x, like, **params):
    adapter = ConvAdapter(**params)
    adapter.setup(facts(x, like))
    return adapter


@pytest.mark.parametrize("spatial", [(5,), (5, 6), (3, 4, 5)])
def test_conv1x1_maps_the_channels_at_every_place(spatial):
    adapter = Conv1x1Adapter(out_channels=3).double()
    adapter.setup(facts((2, 4, *spatial)))
    adapter.double()
    x = torch.randn(2, 4, *spatial, dtype=torch.float64)
    weight = adapter.body.weight.flatten(1)
    expected = torch.einsum("oc,bc...->bo...", weight, x) + adapter.body.bias.view(1, 3, *[1] * len(spatial))
    torch.testing.assert_close(adapter(x), expected)


def test_conv1x1_takes_only_channels_from_like():
    adapter = Conv1x1Adapter()
    adapter.setup(facts((2, 4, 8, 8), (2, 6, 4, 4)))
    assert adapter(torch.randn(2, 4, 8, 8)).shape == (2, 6, 8, 8)


def test_conv1x1_refuses_vectors_and_a_rank_that_x_contradicts():
    with pytest.raises(ValueError, match=r"x has shape \(2, 4\); conv1x1 needs \(B, C, \*spatial\)"):
        Conv1x1Adapter().setup(facts((2, 4), (2, 6)))
    with pytest.raises(ValueError, match=r"spatial_dims is 2 but x has shape \(2, 4, 5\)"):
        Conv1x1Adapter(spatial_dims=2).setup(facts((2, 4, 5), (2, 6, 5)))
    with pytest.raises(ValueError, match="spatial_dims must be 1, 2 or 3, found 4"):
        Conv1x1Adapter(spatial_dims=4)


@pytest.mark.parametrize(
    ("size", "target", "geometry", "transposed"),
    [
        ((8, 8), (8, 8), ((1, 1), (1, 1), (0, 0)), False),
        ((8, 8), (4, 4), ((3, 3), (2, 2), (1, 1)), False),
        ((9, 12), (3, 3), ((5, 7), (3, 4), (2, 3)), False),
        ((7, 7), (5, 4), ((3, 4), (1, 1), (0, 0)), False),
        ((8, 7), (4, 5), ((3, 3), (2, 1), (1, 0)), False),
        ((4, 4), (8, 8), ((4, 4), (2, 2), (1, 1)), True),
        ((3, 4), (9, 4), ((5, 1), (3, 1), (1, 0)), True),
        ((2, 2), (8, 8), ((8, 8), (4, 4), (2, 2)), True),
        ((10,), (5,), ((3,), (2,), (1,)), False),
        ((4, 6, 8), (2, 3, 8), ((3, 3, 1), (2, 2, 1), (1, 1, 0)), False),
    ],
)
def test_conv_reaches_the_size_of_like(size, target, geometry, transposed):
    adapter = set_up((2, 3, *size), (2, 5, *target))
    convolution = adapter.body.conv
    assert isinstance(convolution, nn.modules.conv._ConvTransposeNd) is transposed
    assert (convolution.kernel_size, convolution.stride, convolution.padding) == geometry
    assert adapter(torch.randn(2, 3, *size)).shape == (2, 5, *target)


@pytest.mark.parametrize("size", range(1, 13))
def test_conv_reaches_every_smaller_size(size):
    for target in range(1, size + 1):
        assert set_up((2, 1, size), (2, 1, target))(torch.randn(2, 1, size)).shape == (2, 1, target)


@pytest.mark.parametrize(("size", "target"), [((4, 4), (6, 6)), ((4, 8), (8, 4))])
def test_conv_refuses_sizes_no_kernel_reaches(size, target):
    with pytest.raises(ValueError, match=r"no kernel leads from x of shape .* to like of shape .*adapter resize first"):
        set_up((2, 3, *size), (2, 5, *target))


def test_conv_refuses_another_rank_of_like():
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 4, 4\) but like has \(2, 5, 4\); conv needs as many"):
        set_up((2, 3, 4, 4), (2, 5, 4))


def test_conv_value_is_convolution_batch_norm_relu():
    adapter = set_up((2, 3, 4, 4), (2, 5, 4, 4)).double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    mapped = torch.einsum("oc,bchw->bohw", adapter.body.conv.weight[..., 0, 0], x)
    mean = mapped.mean((0, 2, 3), keepdim=True)
    variance = mapped.var((0, 2, 3), keepdim=True, unbiased=False)
    expected = ((mapped - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
    torch.testing.assert_close(adapter(x), expected)
    assert [name for name, _ in adapter.body.named_children()] == ["conv", "bn", "relu"]


def test_conv_parts_can_be_left_out():
    bare = set_up((2, 3, 4, 4), (2, 5, 4, 4), batch_norm=False, relu=False)
    assert [name for name, _ in bare.named_parameters()] == ["body.conv.weight", "body.conv.bias"]
    assert (bare(torch.randn(2, 3, 4, 4)) < 0).any()
    assert [name for name, _ in set_up((2, 3, 4), (2, 5, 4)).named_parameters()] == [
        "body.conv.weight",
        "body.bn.weight",
        "body.bn.bias",
    ]


def test_explicit_kernel_overrides_the_sizes():
    adapter = set_up((2, 3, 8, 8), (2, 5, 4, 4), kernel_size=3, padding=1)
    assert adapter(torch.randn(2, 3, 8, 8)).shape == (2, 5, 8, 8)
    adapter = set_up((2, 3, 8, 8), (2, 5, 4, 4), kernel_size=[3, 1], stride=[2, 1], padding=[1, 0])
    assert adapter(torch.randn(2, 3, 8, 8)).shape == (2, 5, 4, 8)


def test_kernel_numbers_must_fit():
    with pytest.raises(ValueError, match=r"kernel_size is \[3, 3\]; 1 numbers are needed, one per spatial dimension"):
        set_up((2, 3, 8), (2, 5, 8), kernel_size=[3, 3])
    with pytest.raises(ValueError, match="kernel_size must be 1 or more, found 0"):
        set_up((2, 3, 8), (2, 5, 8), kernel_size=0)
    with pytest.raises(ValueError, match="stride and padding are for an explicit kernel_size"):
        ConvAdapter(stride=2)


def test_conv_gradcheck():
    adapter = set_up((2, 2, 4), (2, 3, 2), relu=False).double()
    assert torch.autograd.gradcheck(adapter, torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True))
