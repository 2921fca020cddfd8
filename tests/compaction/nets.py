"""Small networks for compaction, and zeros for them as pruning leaves them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and statistic a value that shows; return the model in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-1, 1, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
        for parameter in model.parameters():
            scale = 1.0 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
            parameter.uniform_(-scale, scale, generator=generator)
    return model.eval()


def zero_filters(layer: nn.Module, indices: Sequence[int], norm: nn.Module | None = None) -> None:
    """Zero whole outputs of a layer, with its bias and what follows per channel."""
    with torch.no_grad():
        for module in (layer, norm):
            for parameter in module.parameters() if module is not None else ():
                parameter[list(indices)] = 0


def zero_inputs(layer: nn.Module, indices: Sequence[int]) -> None:
    """Zero what a layer makes of some of its inputs."""
    with torch.no_grad():
        layer.weight[:, list(indices)] = 0


class Residual(nn.Module):
    """A stem and a block with a shortcut, both with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv1, self.bn1 = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.stem(x)))
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x
        return self.fc(self.relu(y).mean((2, 3)))


class Separable(nn.Module):
    """Pointwise, depthwise, pointwise."""

    def __init__(self, multiplier: int = 1) -> None:
        super().__init__()
        wide = 8 * multiplier
        self.expand, self.bn1 = nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.depth, self.bn2 = nn.Conv2d(8, wide, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(wide)
        self.project = nn.Conv2d(wide, 6, 1)
        self.act = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.act(self.bn2(self.depth(self.act(self.bn1(self.expand(x)))))))


class Branches(nn.Module):
    """Two convolutions side by side, concatenated, pooled and flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 3, padding=1)
        self.after = nn.Conv2d(10, 5, 1)
        self.fc = nn.Linear(5 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x).relu(), self.right(x).relu()], dim=1)
        return self.fc(nn.functional.max_pool2d(self.after(x), 2).flatten(1))


class Gated(nn.Module):
    """A gated linear unit: one layer makes values and gates."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.out = nn.Linear(6, 16), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.both(x).chunk(2, dim=-1)
        return self.out(value * torch.sigmoid(gate))


class Transformer(nn.Module):
    """An encoder layer and a decoder layer of torch, with self-attention and cross-attention."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(16, 4, 12, batch_first=batch_first)
        self.decoder = nn.TransformerDecoderLayer(16, 4, 12, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(x, self.encoder(x))


class Random(nn.Module):
    """Layers, activations and joints drawn at random: every way that channels can hang together."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        wide = rng.choice([4, 8])
        self.joint = rng.choice(["add", "concat", "gate", "product"])
        self.first = nn.Conv2d(3, wide, 3, padding=rng.choice([0, 1]), bias=rng.random() < 0.5)
        self.norm = rng.choice([nn.BatchNorm2d(wide), nn.GroupNorm(2, wide), nn.Identity()])
        self.act = rng.choice([nn.ReLU(), nn.Sigmoid(), nn.GELU(), nn.PReLU(wide), nn.Hardswish()])
        groups = rng.choice([1, 2, wide])
        self.middle = nn.Conv2d(wide, wide, 3, padding=1, groups=groups, bias=rng.random() < 0.5)
        self.last = nn.Conv2d(wide, wide, 1, bias=rng.random() < 0.5)
        self.squeeze = nn.Linear(wide, wide)
        self.mix = nn.Conv2d(2 * wide if self.joint == "concat" else wide, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.first(x)))
        y = self.last(self.act(self.middle(x)))
        if self.joint == "add":
            x = x + y
        elif self.joint == "concat":
            x = torch.cat([x, y], 1)
        elif self.joint == "gate":
            x = x * torch.sigmoid(self.squeeze(y.mean((2, 3))))[:, :, None, None]
        else:
            x = x * y
        return self.fc(torch.tanh(self.mix(x)).mean((2, 3)))


def spoil(model: nn.Module, rng: random.Random) -> None:
    """Zero whole outputs and inputs of layers at random, with and without their biases and shifts."""
    with torch.no_grad():
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if not isinstance(weight, Tensor):
                continue
            rows = [index for index in range(len(weight)) if rng.random() < 0.4]
            weight[rows] = 0
            bias = getattr(module, "bias", None)
            if bias is not None and rng.random() < 0.7:
                bias[rows] = 0
            if weight.dim() > 1 and rng.random() < 0.5:
                weight[:, [index for index in range(weight.shape[1]) if rng.random() < 0.3]] = 0
