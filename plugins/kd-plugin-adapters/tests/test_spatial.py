import pytest
import torch
from kd_plugin_adapters.spatial import Pool, Resize

from kdcore.contracts import Facts, TensorFacts


def set_up(adapter, x, like=None):
    as_facts = lambda shape: TensorFacts(tuple(shape), torch.float32)  # noqa: E731
    adapter.setup(Facts(inputs={"x": as_facts(x)}, like=None if like is None else as_facts(like)))
    return adapter


@pytest.mark.parametrize("spatial", [(8,), (8, 4), (8, 4, 2)])
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_pool_by_half_is_the_mean_or_maximum_of_neighbours(spatial, kind):
    x = torch.randn(2, 3, *spatial, dtype=torch.float64)
    like = (2, 9, *(size // 2 for size in spatial))
    expected = x
    for dim in range(2, x.dim()):
        pairs = expected.unflatten(dim, (-1, 2))
        expected = pairs.mean(dim + 1) if kind == "avg" else pairs.amax(dim + 1)
    torch.testing.assert_close(set_up(Pool(kind=kind), x.shape, like)(x), expected)


def test_pool_to_one_is_the_global_mean():
    x = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(Pool(1)(x), x.mean((2, 3), keepdim=True))


def test_pool_cannot_enlarge():
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 4, 4\) and output_size is \[8, 8\]; .*resize can"):
        set_up(Pool(), (2, 3, 4, 4), (2, 3, 8, 8))
    with pytest.raises(ValueError, match="pool cannot enlarge"):
        Pool(8)(torch.randn(2, 3, 4, 4))


def test_resize_nearest_repeats():
    x = torch.randn(2, 3, 4, 5)
    resized = set_up(Resize(), x.shape, (2, 7, 8, 10))(x)
    assert torch.equal(resized, x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_resize_linear_is_exact_on_a_ramp():
    ramp = torch.linspace(0, 1, 5, dtype=torch.float64)
    for dims in (1, 2, 3):
        x = ramp.view(1, 1, 5, *[1] * (dims - 1)).expand(1, 1, *[5] * dims)
        resized = Resize(9, mode="linear", align_corners=True)(x)
        expected = torch.linspace(0, 1, 9, dtype=torch.float64).view(1, 1, 9, *[1] * (dims - 1))
        torch.testing.assert_close(resized, expected.expand(1, 1, *[9] * dims))


def test_resize_area_is_the_mean():
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(Resize([2, 2], mode="area")(x), Pool([2, 2])(x))


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "linear", "area", "cubic"])
def test_resize_modes_keep_a_constant_image(mode):
    x = torch.full((2, 3, 4, 4), 1.5)
    torch.testing.assert_close(Resize([7, 3], mode=mode)(x), torch.full((2, 3, 7, 3), 1.5))


@pytest.mark.parametrize("adapter", [Pool([4, 5]), Resize([4, 5])])
def test_the_same_size_passes_through(adapter):
    x = torch.randn(2, 3, 4, 5)
    assert adapter(x) is x


@pytest.mark.parametrize("make", [Pool, Resize])
def test_explicit_size_overrides_like(make):
    assert set_up(make(2), (2, 3, 4, 4), (2, 3, 1, 1))(torch.randn(2, 3, 4, 4)).shape == (2, 3, 2, 2)


@pytest.mark.parametrize("make", [Pool, Resize])
def test_errors_of_the_size(make):
    x = torch.randn(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"was used before setup\(facts\); call setup first, or give"):
        make()(x)
    with pytest.raises(ValueError, match=r"does not know its (output_)?size; give like:, or the param (output_)?size"):
        set_up(make(), x.shape)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 4, 4\) but like has \(2, 3\)"):
        set_up(make(), x.shape, (2, 3))
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 4, 4\) but (output_)?size is \[2\]; .*one number"):
        make([2])(x)
    with pytest.raises(ValueError, match="must be 1 or more, found 0"):
        make(0)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3\); 3 to 5 dimensions are needed"):
        make(1)(torch.randn(2, 3))


def test_errors_of_the_mode():
    with pytest.raises(ValueError, match="kind must be avg or max, found 'mean'"):
        Pool(1, kind="mean")
    with pytest.raises(ValueError, match=r"mode must be one of nearest, .*found 'bilinear'"):
        Resize(1, mode="bilinear")
    with pytest.raises(ValueError, match="align_corners is for the modes linear and cubic, not for nearest"):
        Resize(1, align_corners=True)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 4\); mode cubic takes images"):
        Resize(2, mode="cubic")(torch.randn(2, 3, 4))


@pytest.mark.parametrize("adapter", [Pool(2), Pool(2, kind="max"), Resize(5), Resize(5, mode="linear")])
def test_gradcheck(adapter):
    assert torch.autograd.gradcheck(adapter, torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True))
    assert list(adapter.parameters()) == []
