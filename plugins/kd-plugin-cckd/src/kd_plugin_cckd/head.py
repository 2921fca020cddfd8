"""From features to an embedding."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from kdcore.contracts import Facts, TensorFacts
from kdcore.shapes import check_rank


class CCKDHead(nn.Module):
    """A linear layer from flattened features to an embedding.

    Peng et al.: Correlation Congruence for Knowledge Distillation, 2019, section 3.4.

    Arguments:
        in_features: numbers of x per sample; taken from x unless given.
        out_features: size of the embedding; the numbers of `like` per sample unless given.

    Called with x (B, ...); returns (B, out_features).
    """

    def __init__(self, in_features: int | None = None, out_features: int | None = None) -> None:
        super().__init__()
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            if size is not None and size < 1:
                raise ValueError(f"{name} must be 1 or more, found {size}")
        self.in_features = in_features
        self.out_features = out_features
        self.linear: nn.Linear | None = None
        if in_features is not None and out_features is not None:
            self.linear = nn.Linear(in_features, out_features)

    def setup(self, facts: Facts) -> None:
        """Create the layer from what is known of x and `like`; again with the same sizes it changes nothing.

        Raises ValueError where a size is not known or x contradicts it.
        """
        found = _numbers(facts.inputs.get("x"))
        sizes = (
            _known("in_features", self.in_features, found, "bind x under inputs:"),
            _known("out_features", self.out_features, _numbers(facts.like), "give like:, the embedding to imitate"),
        )
        if found not in (None, sizes[0]):
            raise ValueError(f"in_features is {sizes[0]} but x has {found} numbers per sample; leave in_features out")
        if self.linear is None:
            self.linear = nn.Linear(*sizes)
        elif (self.linear.in_features, self.linear.out_features) != sizes:
            raise ValueError(
                f"cckd_head leads from {self.linear.in_features} to {self.linear.out_features} numbers and cannot "
                f"change to {sizes[0]} and {sizes[1]}; use one head per shape"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings of x."""
        check_rank(2, x=x)
        if self.linear is None:
            raise ValueError("cckd_head was used before setup(facts); call setup first, or give both sizes")
        return self.linear(x.flatten(1))  # type: ignore[no-any-return]


def _numbers(facts: TensorFacts | None) -> int | None:
    return prod(facts.shape[1:]) if isinstance(facts, TensorFacts) else None


def _known(name: str, given: int | None, found: int | None, remedy: str) -> int:
    size = given or found
    if size is None:
        raise ValueError(f"cckd_head does not know its {name}; {remedy}, or give the param {name}")
    return size
