import pytest
import torch
from kd_plugin_adapters.shaping import Flatten, Normalize, Select


def test_flatten_keeps_the_batch():
    x = torch.arange(24.0).view(2, 3, 4)
    assert torch.equal(Flatten()(x), torch.arange(24.0).view(2, 12))
    assert Flatten(2)(torch.zeros(2, 3, 4, 5)).shape == (2, 3, 20)
    assert Flatten(0, 1)(torch.zeros(2, 3, 4, 5)).shape == (6, 4, 5)


def test_select_takes_one_slice():
    x = torch.arange(24.0).view(2, 3, 4)
    assert Select()(x).tolist() == [[0, 1, 2, 3], [12, 13, 14, 15]]
    assert Select(-1, -1)(x).tolist() == [[3, 7, 11], [15, 19, 23]]


@pytest.mark.parametrize(
    ("adapter", "match"),
    [
        (Flatten(3), r"x has shape \(2, 3\); start_dim=3 is outside its 2 dimensions"),
        (Flatten(1, 2), r"x has shape \(2, 3\); end_dim=2 is outside"),
        (Select(2), r"x has shape \(2, 3\); dim=2 is outside"),
        (Select(1, 3), r"x has shape \(2, 3\); index 3 is outside dimension 1"),
        (Select(1, -4), r"x has shape \(2, 3\); index -4 is outside dimension 1"),
        (Normalize(dim=-3), r"x has shape \(2, 3\); dim=-3 is outside"),
    ],
)
def test_errors_name_the_shape(adapter, match):
    with pytest.raises(ValueError, match=match):
        adapter(torch.zeros(2, 3))


@pytest.mark.parametrize("p", [1, 1.5, 2.0, 3])
@pytest.mark.parametrize("dim", [1, -1])
def test_normalize_divides_by_the_norm(p, dim):
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    expected = x / x.abs().pow(p).sum(dim, keepdim=True).pow(1 / p)
    torch.testing.assert_close(Normalize(p, dim)(x), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_normalize_is_finite_at_zero_vectors(dtype, p):
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=dtype, requires_grad=True)
    output = Normalize(p)(x)
    assert output.dtype == dtype
    assert output[0].tolist() == [0, 0]
    assert output[1].norm(p=p).item() == pytest.approx(1, abs=1e-2)
    output.sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad[0].abs().max() <= 1


def test_normalize_gradcheck():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Normalize(), x)
    assert torch.autograd.gradcheck(Normalize(3, 0), x)


def test_normalize_refuses_what_is_no_norm():
    with pytest.raises(ValueError, match=r"p must be 1 or more, found 0\.5"):
        Normalize(0.5)
    with pytest.raises(ValueError, match="eps must be 0 or more, found -1"):
        Normalize(eps=-1)
