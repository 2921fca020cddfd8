"""Small networks for the digits: one of convolutions, one of linear layers."""

from __future__ import annotations

from torch import nn

PIXELS = 8 * 8


class DigitsCNN(nn.Sequential):
    """A convolutional network of `depth` blocks, a global mean and a linear classifier.

    Its parts are `block1`, `block2`, ... (each of `conv`, `bn` and `relu`), `pool`, whose output
    is the embedding (B, C), and `fc`. Blocks 2 and 3 halve the image and double the channels; later
    ones keep both, so an image of 8 x 8 passes through 8 x 8 x w, 4 x 4 x 2w and 2 x 2 x 4w for width w.

    Arguments:
        width: channels of the first block, 1 or more.
        depth: number of blocks, 1 or more.
        num_classes: size of the output, 1 or more.
        bottleneck: channels of the first block instead of `width`, 1 or more; the others keep their output.

    Called with images (B, 1, 8, 8); returns logits (B, num_classes).
    """

    def __init__(self, width: int = 16, depth: int = 3, num_classes: int = 10, bottleneck: int | None = None) -> None:
        first = width if bottleneck is None else bottleneck
        _check_positive(width=width, depth=depth, num_classes=num_classes, bottleneck=first)
        super().__init__()
        in_channels, out_channels = 1, width
        for number in range(1, depth + 1):
            stride = 2 if number in (2, 3) else 1
            out_channels *= stride
            made = first if number == 1 else out_channels
            self.add_module(f"block{number}", ConvBlock(in_channels, made, stride))
            in_channels = made
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        self.fc = nn.Linear(in_channels, num_classes)


class ConvBlock(nn.Sequential):
    """A 3 x 3 convolution, batch normalisation and ReLU, each a module with a name."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()  # not in place: the output of `bn` has an address of its own


class DigitsMLP(nn.Sequential):
    """A network of linear layers with ReLU.

    Its parts are `flatten`, `layer1`, `layer2`, ... (each of `linear`, `relu` and `dropout`) and `fc`.

    Arguments:
        width: units of every hidden layer, 1 or more.
        depth: number of hidden layers, 0 or more; 0 is a linear classifier.
        dropout: share of hidden units dropped in training, 0 <= dropout < 1.
        num_classes: size of the output, 1 or more.

    Called with images (B, 1, 8, 8); returns logits (B, num_classes).
    """

    def __init__(self, width: int = 64, depth: int = 2, dropout: float = 0.0, num_classes: int = 10) -> None:
        _check_positive(width=width, num_classes=num_classes)
        if depth < 0:
            raise ValueError(f"depth must be 0 or more, found {depth}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, found {dropout}")
        super().__init__()
        self.flatten = nn.Flatten(1)
        features = PIXELS
        for number in range(1, depth + 1):
            self.add_module(f"layer{number}", LinearBlock(features, width, dropout))
            features = width
        self.fc = nn.Linear(features, num_classes)


class LinearBlock(nn.Sequential):
    """A linear layer, ReLU and dropout, each a module with a name."""

    def __init__(self, in_features: int, out_features: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be 1 or more, found {size}")
