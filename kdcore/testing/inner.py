"""The loss that wrappers are tested around unless their example names another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdcore.component import Input, Role
from kdcore.shapes import check_same_shape


class Squares(nn.Module):
    """The mean squared difference of student and teacher."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean; raises ValueError where the shapes differ."""
        check_same_shape(student=student, teacher=teacher)
        dtype = torch.promote_types(student.dtype, torch.float32)
        return (student.to(dtype) - teacher.detach().to(dtype)).square().mean()


@dataclass(frozen=True)
class Factory:
    """Makes `Squares` as the core makes the loss of a wrapper."""

    inputs: tuple[Input, ...] = (
        Input("student", role=Role.POSITIONS, default="student", help="a tensor"),
        Input("teacher", role=Role.POSITIONS, default="teacher", help="of the same shape"),
    )

    def __call__(self) -> nn.Module:
        """Make a loss."""
        return Squares()


SQUARES = Factory()
