"""The chain that reviews the student's layers, the deepest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.contracts import Facts, TensorFacts


class ReviewFusion(nn.Module):
    """From the deepest of the student's layers to the first, each joined with what those behind it gave.

        x = BN(Conv1x1(layer)),   a, b = sigmoid(Conv1x1([x, r])),   r <- a x + b r,   output = BN(Conv3x3(r))

    where r comes from the layer behind, enlarged to the size of x; the deepest layer has none, and r is x. Each r is
    brought to the size of the teacher's layer before the last convolution.

    Chen, Liu, Zhao, Jia: Distilling Knowledge via Knowledge Review, 2021, section 3.3, the attention
    based fusion. Maps of any size are taken, square or not.

    Arguments:
        in_channels: of each of the student's layers; taken from them unless given.
        out_channels: of each output; those of the teacher's layers unless given.
        mid_channels: in which layers are joined; by default those of the student's deepest layer, 512 at most.

    Called with lists of feature maps, the first layer's first; features (B, C) count as maps of 1 x 1. Returns
    a tuple of tensors like the teacher's, in the same order; without `teacher`, of the student's sizes.
    """

    def __init__(
        self,
        in_channels: Sequence[int] | None = None,
        out_channels: Sequence[int] | None = None,
        mid_channels: int | None = None,
    ) -> None:
        super().__init__()
        for name, sizes in (("in_channels", in_channels), ("out_channels", out_channels)):
            if sizes is not None and (not sizes or min(sizes) < 1):
                raise ValueError(f"{name} is {list(sizes)}; it needs numbers of 1 or more, one for each layer")
        if mid_channels is not None and mid_channels < 1:
            raise ValueError(f"mid_channels must be 1 or more, found {mid_channels}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.mid_channels = mid_channels
        self.levels: nn.ModuleList | None = None
        if in_channels is not None and out_channels is not None:
            self._build(in_channels, out_channels)

    def setup(self, facts: Facts) -> None:
        """Create the layers; raises ValueError where channels are unknown or differ from those that exist."""
        student = _channels("student", facts.inputs["student"])
        if "teacher" in facts.inputs:
            wanted: Sequence[int] = self.out_channels or _channels("teacher", facts.inputs["teacher"])
        elif self.out_channels is not None:
            wanted = self.out_channels
        else:
            raise ValueError("review_fusion does not know its out_channels; bind teacher, or give the param")
        if self.levels is None:
            self._build(student, wanted)
        if list(self.in_channels or ()) != student:
            raise ValueError(f"in_channels is {list(self.in_channels or ())} but student has channels {student}")

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor] | None = None) -> tuple[Tensor, ...]:
        """Return an output for each layer. Raises ValueError where layers do not fit."""
        if self.levels is None:
            raise ValueError("review_fusion was used before setup(facts) created its layers; call it, or give channels")
        self._check(student, teacher)
        outputs: list[Tensor] = []
        review: Tensor | None = None
        for place in reversed(range(len(student))):
            layer = _as_map(student[place])
            like = student[place] if teacher is None else teacher[place]
            review, output = self.levels[place](layer, review, _as_map(like).shape[2:])
            outputs.append(output.flatten(1) if like.dim() == 2 and output.shape[2:] == (1, 1) else output)
        return tuple(reversed(outputs))

    def _build(self, in_channels: Sequence[int], out_channels: Sequence[int]) -> None:
        if len(in_channels) != len(out_channels):
            raise ValueError(f"there are {len(in_channels)} layers of the student but {len(out_channels)} outputs")
        mid = self.mid_channels or min(512, in_channels[-1])
        self.in_channels, self.out_channels = list(in_channels), list(out_channels)
        self.levels = nn.ModuleList(
            Level(into, mid, out, joins=place < len(in_channels) - 1)
            for place, (into, out) in enumerate(zip(in_channels, out_channels, strict=True))
        )

    def _check(self, student: Sequence[Tensor], teacher: Sequence[Tensor] | None) -> None:
        channels = [each.shape[1] if each.dim() in (2, 4) else None for each in student]
        if channels != self.in_channels or (teacher is not None and len(teacher) != len(student)):
            shapes = ", ".join(str(tuple(each.shape)) for each in student)
            raise ValueError(
                f"student has shapes {shapes}; review_fusion needs maps of {self.in_channels} channels"
                + (f", and as many from the teacher, found {len(teacher)}" if teacher is not None else "")
            )
        if self.training and any(each.shape[0] * each.shape[2:].numel() < 2 for each in student):
            raise ValueError("a batch of one with a layer of 1 x 1 cannot be normalised; at least 2 samples are needed")


class Level(nn.Module):
    """One layer of the chain.

    Arguments:
        in_channels, mid_channels, out_channels: of the layer, of the joint, of the output.
        joins: whether there is a layer behind.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, joins: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(in_channels, mid_channels, 1, bias=False), nn.BatchNorm2d(mid_channels))
        self.attention = nn.Sequential(nn.Conv2d(2 * mid_channels, 2, 1), nn.Sigmoid()) if joins else None
        self.leave = nn.Sequential(
            nn.Conv2d(mid_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels)
        )

    def forward(self, layer: Tensor, behind: Tensor | None, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return what the next layer is joined with, and the output, both of `size`."""
        x: Tensor = self.enter(layer)
        if self.attention is not None and behind is not None:
            behind = _resized(behind, x.shape[2:])
            shares = self.attention(torch.cat([x, behind], 1))
            x = x * shares[:, :1] + behind * shares[:, 1:]
        x = _resized(x, size)
        return x, self.leave(x)


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return x if tuple(x.shape[2:]) == tuple(size) else F.interpolate(x, tuple(size))


def _as_map(features: Tensor) -> Tensor:
    return features[:, :, None, None] if features.dim() == 2 else features


def _channels(name: str, found: Any) -> list[int]:
    if not isinstance(found, list) or not all(isinstance(each, TensorFacts) for each in found):
        raise ValueError(f"{name} must be a list of addresses, one for each layer")
    if any(len(each.shape) not in (2, 4) for each in found):
        shapes = ", ".join(str(each.shape) for each in found)
        raise ValueError(f"{name} has shapes {shapes}; (B, C, H, W) or (B, C) is needed")
    return [each.shape[1] for each in found]
