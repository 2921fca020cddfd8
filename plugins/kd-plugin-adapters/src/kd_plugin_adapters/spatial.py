"""Parameter-free changes of the spatial size: pooling and interpolation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from kd_plugin_adapters.sized import facts_of_x
from kdcore.contracts import Facts
from kdcore.shapes import check_rank

POOLS = {
    "avg": (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
    "max": (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
}
MODES = {
    "nearest": ("nearest",) * 3,
    "nearest-exact": ("nearest-exact",) * 3,
    "linear": ("linear", "bilinear", "trilinear"),
    "cubic": (None, "bicubic", None),
    "area": ("area",) * 3,
}


class SpatialAdapter(nn.Module):
    """A change of the spatial size to one that is given, or to that of `like`."""

    def __init__(self, kind: str, param: str, size: int | Sequence[int] | None) -> None:
        super().__init__()
        self.kind = kind
        self.param = param
        self.size = size if size is None or isinstance(size, int) else tuple(size)
        self.explicit = size is not None
        if self.size is not None and min((self.size,) if isinstance(self.size, int) else self.size) < 1:
            raise ValueError(f"{param} must be 1 or more, found {size}")

    def setup(self, facts: Facts) -> None:
        """Take the size from `like` unless it was given, and check it against x."""
        like, x = facts.like, facts_of_x(facts)
        if not self.explicit:
            if like is None:
                raise ValueError(f"{self.kind} does not know its {self.param}; give like:, or the param {self.param}")
            if x is not None and len(x.shape) != len(like.shape):
                raise ValueError(
                    f"x has shape {x.shape} but like has {like.shape}; {self.kind} needs as many dimensions in both, "
                    f"or the param {self.param}"
                )
            self.size = like.shape[2:]
        if x is not None:
            self.target(x.shape)

    def target(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the spatial size to produce from an x of `shape`; raises ValueError where it does not fit."""
        dims = len(shape) - 2
        if self.size is None:
            raise ValueError(f"{self.kind} was used before setup(facts); call setup first, or give {self.param}")
        size = (self.size,) * dims if isinstance(self.size, int) else self.size
        if len(size) != dims or not 1 <= dims <= 3:
            raise ValueError(
                f"x has shape {tuple(shape)} but {self.param} is {list(size)}; "
                "x must be (B, C, *spatial) with 1 to 3 spatial dimensions, and one number is needed for each"
            )
        return size

    def extra_repr(self) -> str:
        """Show the size."""
        return f"{self.param}={self.size}"


class Pool(SpatialAdapter):
    """Adaptive pooling: every output place is the mean or the maximum of its share of the input.

    Arguments:
        output_size: a number, or one per spatial dimension; taken from `like` unless given.
        kind: `avg` or `max`.

    Called with x (B, C, *spatial) of 1 to 3 spatial dimensions; returns (B, C, *output_size).
    Raises ValueError where the output would be larger than x.
    """

    def __init__(self, output_size: int | Sequence[int] | None = None, kind: str = "avg") -> None:
        super().__init__("pool", "output_size", output_size)
        if kind not in POOLS:
            raise ValueError(f"kind must be {' or '.join(POOLS)}, found {kind!r}")
        self.pools = POOLS[kind]

    def target(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the size to produce; raises ValueError where it is larger than x."""
        size = super().target(shape)
        if any(after > before for before, after in zip(shape[2:], size, strict=True)):
            raise ValueError(
                f"x has shape {tuple(shape)} and output_size is {list(size)}; pool cannot enlarge, resize can"
            )
        return size

    def forward(self, x: Tensor) -> Tensor:
        """Return x pooled to the output size."""
        check_rank(3, 5, x=x)
        size = self.target(x.shape)
        return x if size == x.shape[2:] else self.pools[x.dim() - 3](x, size)  # type: ignore[operator]


class Resize(SpatialAdapter):
    """Interpolation to another spatial size; the channels stay.

    Arguments:
        size: a number, or one per spatial dimension; taken from `like` unless given.
        mode: `nearest`, `nearest-exact`, `linear` (bilinear for images, trilinear for volumes), `cubic`
            (images only) or `area`.
        align_corners: whether the corner pixels keep their values, for `linear` and `cubic`.

    Called with x (B, C, *spatial) of 1 to 3 spatial dimensions; returns (B, C, *size).
    """

    def __init__(
        self, size: int | Sequence[int] | None = None, mode: str = "nearest", align_corners: bool = False
    ) -> None:
        super().__init__("resize", "size", size)
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, found {mode!r}")
        if align_corners and mode not in ("linear", "cubic"):
            raise ValueError(f"align_corners is for the modes linear and cubic, not for {mode}")
        self.mode = mode
        self.align_corners = align_corners

    def target(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the size to produce; raises ValueError where the mode does not fit x."""
        size = super().target(shape)
        if MODES[self.mode][len(size) - 1] is None:
            raise ValueError(f"x has shape {tuple(shape)}; mode {self.mode} takes images (B, C, H, W)")
        return size

    def forward(self, x: Tensor) -> Tensor:
        """Return x interpolated to the size."""
        check_rank(3, 5, x=x)
        size = self.target(x.shape)
        if size == x.shape[2:]:
            return x
        corners = self.align_corners if self.mode in ("linear", "cubic") else None
        return F.interpolate(x, size, mode=MODES[self.mode][len(size) - 1] or "nearest", align_corners=corners)
