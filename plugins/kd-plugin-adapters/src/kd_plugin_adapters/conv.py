"""Convolutions from the student's channels, and image size, to the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from kd_plugin_adapters.sized import SizedAdapter, check_sizes, facts_of_x, in_size, out_size, require
from kdcore.contracts import Facts, TensorFacts

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Conv1x1Adapter(SizedAdapter):
    """A linear map of the channels at every place.

    Arguments:
        in_channels: channels of x; taken from x unless given.
        out_channels: channels of the output; taken from `like` unless given.
        spatial_dims: how many dimensions follow the channels, 1 to 3; taken from x unless given.
        bias: whether one is added.

    Called with x (B, in_channels, *spatial); returns (B, out_channels, *spatial).
    """

    def __init__(
        self,
        in_channels: int | None = None,
        out_channels: int | None = None,
        spatial_dims: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__("conv1x1", in_channels=in_channels, out_channels=out_channels, spatial_dims=spatial_dims)
        check_sizes(in_channels=in_channels, out_channels=out_channels)
        _check_spatial_dims(spatial_dims)
        self.bias = bias
        if None not in self.given.values():
            self.adopt(self.given)

    def infer(self, facts: Facts) -> dict[str, Any]:
        """Return the channels of x and `like`, and the rank of x."""
        return _channels(self, facts)

    def build(self, in_channels: int, out_channels: int, spatial_dims: int) -> nn.Module:
        """Return the convolution."""
        return CONVOLUTIONS[spatial_dims](in_channels, out_channels, 1, bias=self.bias)


class Geometry(NamedTuple):
    """How a convolution moves over its input: one number per spatial dimension."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    transposed: bool = False


class ConvAdapter(SizedAdapter):
    """A convolution, batch normalisation and ReLU: the regressor of FitNets.

    Unless `kernel_size` is given, the geometry follows from the sizes s of x and t of `like`, so that the
    output is as large as `like`. Per dimension, for a whole m:

        s = m t          kernel 2m - 1, stride m, padding m - 1    (1 x 1 where the sizes agree)
        t = m s          transposed, kernel 2m - (m mod 2), stride m, padding floor(m / 2)
        any other s > t  kernel s - t + 1                          (the rule of the paper)

    FitNets: Hints for Thin Deep Nets (Romero et al., 2015), section 2.2. The paper has the last rule only,
    whose kernel grows as large as the image; strides keep it small.

    Arguments:
        in_channels: channels of x; taken from x unless given.
        out_channels: channels of the output; taken from `like` unless given.
        kernel_size, stride, padding: a number, or one per dimension; stride and padding are for an
            explicit kernel_size only.
        spatial_dims: how many dimensions follow the channels, 1 to 3; taken from x unless given.
        batch_norm: whether the convolution is followed by batch normalisation; without it the
            convolution has a bias.
        relu: whether ReLU comes last.

    Called with x (B, in_channels, *spatial); returns (B, out_channels, *spatial of `like`).
    Raises ValueError where no rule fits; `resize` then changes the size first.
    """

    def __init__(
        self,
        in_channels: int | None = None,
        out_channels: int | None = None,
        kernel_size: int | Sequence[int] | None = None,
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        spatial_dims: int | None = None,
        batch_norm: bool = True,
        relu: bool = True,
    ) -> None:
        super().__init__(
            "conv",
            in_channels=in_channels,
            out_channels=out_channels,
            spatial_dims=spatial_dims,
            kernel_size=kernel_size,
        )
        check_sizes(in_channels=in_channels, out_channels=out_channels)
        _check_spatial_dims(spatial_dims)
        if kernel_size is None and (stride != 1 or padding != 0):
            raise ValueError("stride and padding are for an explicit kernel_size; give kernel_size, or leave them out")
        self.stride = stride
        self.padding = padding
        self.batch_norm = batch_norm
        self.relu = relu
        if in_channels is not None and out_channels is not None and spatial_dims and kernel_size is not None:
            self.adopt(self._sizes(in_channels, out_channels, self._explicit(spatial_dims)))

    def infer(self, facts: Facts) -> dict[str, Any]:
        """Return the channels and the geometry."""
        channels = _channels(self, facts)
        if self.given["kernel_size"] is not None:
            geometry = self._explicit(channels["spatial_dims"])
        else:
            geometry = _between(facts_of_x(facts), facts.like)
        return self._sizes(channels["in_channels"], channels["out_channels"], geometry)

    def build(self, in_channels: int, out_channels: int, geometry: Geometry) -> nn.Module:
        """Return the convolution and what follows it."""
        dims = len(geometry.kernel_size)
        convolution = (TRANSPOSED if geometry.transposed else CONVOLUTIONS)[dims]
        kernel_size, stride, padding, _ = geometry
        body = nn.Sequential()
        body.add_module(
            "conv",
            convolution(in_channels, out_channels, kernel_size, stride, padding, bias=not self.batch_norm),  # type: ignore[arg-type]
        )
        if self.batch_norm:
            body.add_module("bn", BATCH_NORMS[dims](out_channels))
        if self.relu:
            body.add_module("relu", nn.ReLU())
        return body

    def _explicit(self, dims: int) -> Geometry:
        return Geometry(
            _per_dimension("kernel_size", self.given["kernel_size"], dims),
            _per_dimension("stride", self.stride, dims),
            _per_dimension("padding", self.padding, dims),
        )

    @staticmethod
    def _sizes(in_channels: int, out_channels: int, geometry: Geometry) -> dict[str, Any]:
        return {"in_channels": in_channels, "out_channels": out_channels, "geometry": geometry}


def _channels(adapter: SizedAdapter, facts: Facts) -> dict[str, Any]:
    given, x = adapter.given, facts_of_x(facts)
    if x is not None and not 3 <= len(x.shape) <= 5:
        raise ValueError(f"x has shape {x.shape}; {adapter.kind} needs (B, C, *spatial) with 1 to 3 spatial dimensions")
    rank = None if x is None else len(x.shape) - 2
    if x is not None and given["spatial_dims"] not in (None, rank):
        raise ValueError(f"spatial_dims is {given['spatial_dims']} but x has shape {x.shape}; leave it out")
    return {
        "in_channels": in_size(adapter.kind, "in_channels", given["in_channels"], x, 1),
        "out_channels": out_size(adapter.kind, "out_channels", given["out_channels"], facts.like, 1),
        "spatial_dims": rank or require(adapter.kind, "spatial_dims", given["spatial_dims"], "bind x under inputs:"),
    }


def _between(x: TensorFacts | None, like: TensorFacts | None) -> Geometry:
    """Return the geometry that leads from the spatial sizes of x to those of `like`."""
    if x is None or like is None:
        raise ValueError("conv does not know its kernel_size; give like:, or the param kernel_size")
    if len(x.shape) != len(like.shape):
        raise ValueError(f"x has shape {x.shape} but like has {like.shape}; conv needs as many dimensions in both")
    sizes = list(zip(x.shape[2:], like.shape[2:], strict=True))
    if all(s >= t for s, t in sizes):
        return _geometry([_shrink(s, t) for s, t in sizes], transposed=False)
    if all(t % s == 0 for s, t in sizes):
        return _geometry([_grow(t // s) for s, t in sizes], transposed=True)
    raise ValueError(
        f"no kernel leads from x of shape {x.shape} to like of shape {like.shape}: sizes must all shrink, or all grow "
        "by whole factors; change the size with the adapter resize first, or give kernel_size"
    )


def _geometry(per_dimension: list[tuple[int, int, int]], *, transposed: bool) -> Geometry:
    kernel_size, stride, padding = zip(*per_dimension, strict=True)
    return Geometry(kernel_size, stride, padding, transposed)


def _shrink(size: int, target: int) -> tuple[int, int, int]:
    factor, rest = divmod(size, target)
    return (size - target + 1, 1, 0) if rest else (2 * factor - 1, factor, factor - 1)


def _grow(factor: int) -> tuple[int, int, int]:
    return 2 * factor - factor % 2, factor, factor // 2


def _per_dimension(name: str, value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    numbers = (value,) * dims if isinstance(value, int) else tuple(value)
    if len(numbers) != dims:
        raise ValueError(f"{name} is {list(numbers)}; {dims} numbers are needed, one per spatial dimension")
    smallest = 0 if name == "padding" else 1
    if min(numbers) < smallest:
        raise ValueError(f"{name} must be {smallest} or more, found {value}")
    return numbers


def _check_spatial_dims(spatial_dims: int | None) -> None:
    if spatial_dims not in (None, 1, 2, 3):
        raise ValueError(f"spatial_dims must be 1, 2 or 3, found {spatial_dims}")
