"""A value whose gradient is made with it."""

from __future__ import annotations

import pytest
import torch

from kdcore.gradient import with_gradient


def squares(tensor: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        value, gradient = tensor.square().sum(), 2 * tensor
    return with_gradient(tensor, value, gradient)


def test_the_gradient_is_the_one_given_times_what_comes_from_upstream() -> None:
    tensor = torch.randn(3, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(squares(tensor) * 5 + tensor.sum(), tensor)
    torch.testing.assert_close(found, 10 * tensor.detach() + 1)
    assert torch.autograd.gradcheck(squares, tensor)


def test_backward_twice_gives_the_same_and_the_value_is_a_copy() -> None:
    tensor = torch.ones(2, requires_grad=True)
    value = torch.tensor(3.0)
    loss = with_gradient(tensor, value, torch.tensor([1.0, 2.0]))
    value.zero_()
    assert loss.item() == 3
    for _ in range(2):
        (found,) = torch.autograd.grad(loss, tensor, retain_graph=True)
        assert found.tolist() == [1, 2]


def test_there_is_no_second_derivative_in_silence() -> None:
    tensor = torch.ones(2, requires_grad=True)
    (found,) = torch.autograd.grad(squares(tensor), tensor, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        (found.square().sum() + squares(tensor)).backward()


def test_without_a_tensor_that_learns_it_is_a_number() -> None:
    assert not squares(torch.ones(2)).requires_grad
