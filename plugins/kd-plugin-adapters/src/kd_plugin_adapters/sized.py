"""Adapters whose parameters are created once their sizes are known, and never in forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kdcore.contracts import Facts, TensorFacts


class SizedAdapter(nn.Module):
    """An adapter whose `body` is built when every size is known: at once, or in `setup(facts)`.

    A subclass names its sizes, says how to read them off the facts (`infer`) and what to build from
    them (`build`). Sizes given to the constructor override what the facts say.
    """

    body: nn.Module | None

    def __init__(self, kind: str, **given: Any) -> None:
        super().__init__()
        self.kind = kind
        self.given = given
        self.sizes: dict[str, Any] | None = None
        self.body = None

    def infer(self, facts: Facts) -> dict[str, Any]:
        """Return the sizes that the facts tell, those given explicitly left as they are."""
        raise NotImplementedError

    def build(self, *_: Any, **sizes: Any) -> nn.Module:
        """Return the module with parameters of these sizes; a subclass names them."""
        raise NotImplementedError

    def setup(self, facts: Facts) -> None:
        """Create the parameters; again with the same sizes it changes nothing.

        Raises ValueError where a size is not known, or differs from that of existing parameters.
        """
        self.adopt(self.infer(facts))

    def adopt(self, sizes: Mapping[str, Any]) -> None:
        """Build the body for `sizes` unless it exists."""
        if self.sizes is None:
            self.body = self.build(**sizes)
            self.sizes = dict(sizes)
        elif self.sizes != sizes:
            raise ValueError(
                f"{self.kind} has parameters for {_listed(self.sizes)} and cannot change to {_listed(sizes)}; "
                "use one adapter per shape"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the body's output for `x`."""
        if self.body is None:
            raise ValueError(
                f"{self.kind} was used before setup(facts) created its parameters; "
                f"call setup first, or give {' and '.join(self.given)}"
            )
        return self.body(x)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Show the sizes."""
        return _listed(self.sizes or self.given)


def facts_of_x(facts: Facts) -> TensorFacts | None:
    """Return what is known of input x; raises ValueError where x is not one tensor."""
    found = facts.inputs.get("x")
    if found is not None and not isinstance(found, TensorFacts):
        raise ValueError(f"x must be one tensor, found {type(found).__name__}; pick one with #key or #0 in its address")
    return found


def in_size(kind: str, name: str, given: int | None, x: TensorFacts | None, dim: int) -> int:
    """Return the size of x along `dim`, or the size given; raises ValueError where they disagree."""
    if x is None:
        return require(kind, name, given, "bind x under inputs:")
    if not -len(x.shape) <= dim < len(x.shape):
        raise ValueError(f"x has shape {x.shape}; {kind} works along dimension {dim}")
    found = x.shape[dim]
    if given is not None and given != found:
        raise ValueError(
            f"{name} is {given} but x has shape {x.shape}, {found} along dimension {dim}; leave {name} out"
        )
    return found


def out_size(kind: str, name: str, given: int | None, like: TensorFacts | None, dim: int) -> int:
    """Return the size given, or that of `like` along `dim`; raises ValueError where neither is known."""
    if given is not None or like is None:
        return require(kind, name, given, "give like:, the address of the tensor to imitate")
    if not -len(like.shape) <= dim < len(like.shape):
        raise ValueError(f"like has shape {like.shape}; {kind} takes {name} from its dimension {dim}; give {name}")
    return like.shape[dim]


def require(kind: str, name: str, given: int | None, remedy: str) -> int:
    """Return the size given; raises ValueError with the remedy where there is none."""
    if given is None:
        raise ValueError(f"{kind} does not know its {name}; {remedy}, or give the param {name}")
    return given


def check_sizes(**sizes: int | None) -> None:
    """Raise ValueError unless every size given is 1 or more."""
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} must be 1 or more, found {size}")


def _listed(sizes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())
