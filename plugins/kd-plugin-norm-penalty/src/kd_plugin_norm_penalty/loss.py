"""The norm of a tensor as a penalty."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kdcore.shapes import check_not_empty


class NormPenaltyLoss(nn.Module):
    """The p-norm of a tensor, over all its elements, the batch among them.

        (sum_i |x_i|^p)^(1/p)

    As torchdistill's regularization of a bottleneck (Matsubara et al., Head Network Distillation,
    2020), it is a norm over the whole batch: with p = 1 it grows with the batch size, which the
    term's weight has to take into account. Where the tensor is 0 so is the gradient. float16 and bfloat16
    are computed in float32.

    Arguments:
        p: the order of the norm, 1 or more.
    """

    def __init__(self, p: float = 1) -> None:
        super().__init__()
        if not 1 <= p < math.inf:
            raise ValueError(f"p is {p}; it must be a number of 1 or more")
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        """Return the norm of a tensor of any shape; raises ValueError where it is empty or holds integers."""
        check_not_empty(input=input)
        if not input.is_floating_point():
            raise ValueError(f"input has dtype {input.dtype}; a norm to learn from needs floating-point numbers")
        norm: Tensor = torch.linalg.vector_norm(input.to(torch.promote_types(input.dtype, torch.float32)), ord=self.p)
        return norm

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"p={self.p}"
