"""One loss per pair of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kd_plugin_wrappers.checks import count_problem, lists_problem, weights_problem
from kd_plugin_wrappers.parts import PartsWrapper
from kd_plugin_wrappers.results import Result
from kdcore.contracts import Facts, LossFactory


class PairsWrapper(PartsWrapper):
    r"""Apply one loss instance to each pair of entries of inputs that are lists.

    `sum_i w_i loss_i(student_i, teacher_i)`, divided by the number of pairs for reduction `mean`.

    Inputs that are not lists are given to every pair. The losses are built by `setup`, which sees
    how many pairs there are, or by the constructor where `weights` tells.

    Arguments:
        make_loss: makes the loss of each pair, which may be a wrapper itself.
        weights: one finite number per pair; None weighs each pair 1.
        reduction: `sum` or `mean`.

    Raises:
        ValueError: the lists differ in length, are empty or do not fit `weights`; or a loss that
            returns (sum, count) is given different labels or masks per pair.
        RuntimeError: it is called before `setup`, without `weights`.
    """

    def __init__(self, make_loss: LossFactory, weights: Sequence[float] | None = None, reduction: str = "sum") -> None:
        super().__init__(make_loss)
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction must be 'sum' or 'mean', found {reduction!r}")
        problem = None if weights is None else weights_problem(dict(enumerate(weights)))
        if problem is not None:
            raise ValueError(problem)
        self.make_loss = make_loss
        self.reduction = reduction
        if weights is not None:
            self._build(list(weights))

    def setup(self, facts: Facts) -> None:
        """Build one loss per pair and hand each the facts of its own pair."""
        if not len(self.losses):
            self._build([1.0] * _pairs_in(facts.inputs))
        super().setup(facts)

    def pick(self, inputs: Mapping[str, Any], index: int) -> dict[str, Any]:
        """Return the inputs of one pair."""
        return {name: value[index] if isinstance(value, (list, tuple)) else value for name, value in inputs.items()}

    def split(self, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the inputs of all pairs."""
        pairs = _pairs_in(inputs)
        problem = count_problem(len(self.losses), pairs)
        if problem is not None:
            raise ValueError(problem)
        return [self.pick(inputs, index) for index in range(pairs)]

    def title(self, index: int) -> str:
        """Return what messages call a pair."""
        return f"pair {index + 1} of {len(self.losses)}"

    def forward(self, **inputs: Any) -> Result:
        """Return the sum or mean over all pairs: a scalar, or (sum, count)."""
        if not len(self.losses):
            raise RuntimeError("pairs has no losses yet: call setup(facts) first, or give weights, one per pair")
        return super().forward(**inputs)

    def _build(self, weights: list[float]) -> None:
        self.losses.extend(self.make_loss() for _ in weights)
        scale = 1 / len(weights) if self.reduction == "mean" else 1
        self.weights = [weight * scale for weight in weights]


def _pairs_in(inputs: Mapping[str, Any]) -> int:
    problem = lists_problem(inputs)
    if problem is not None:
        raise ValueError(problem)
    return next(len(value) for value in inputs.values() if isinstance(value, (list, tuple)))
