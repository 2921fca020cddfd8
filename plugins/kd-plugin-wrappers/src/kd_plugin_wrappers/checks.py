"""What the schemas of the wrappers cannot say; torch-free, and used by the constructors too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kdcore.component import CheckContext, Complaint

NO_SELECTION = (
    "masked has nothing to drop positions by: bind its input mask (inputs: {mask: batch:mask}) or give ignore_index"
)
FUSED_HEAD = (
    "causal cannot shift the positions of a loss that is given a module: such a loss computes its logits "
    "itself; remove the wrapper and set causal: true in the params of the loss"
)


def lists_problem(inputs: Mapping[str, Any]) -> str | None:
    """Say why `inputs` cannot be taken apart into pairs, if they cannot."""
    lengths = {name: len(value) for name, value in inputs.items() if isinstance(value, (list, tuple))}
    found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
    if not lengths:
        names = ", ".join(inputs) or "none"
        return f"pairs needs at least one input that is a list; none is (inputs: {names}); bind lists or remove pairs"
    if len(set(lengths.values())) > 1:
        return f"the lists of pairs differ in length: {found}; the n-th entries belong together"
    if 0 in lengths.values():
        return f"the lists of pairs are empty: {found}; bind at least one pair"
    return None


def count_problem(weights: int, pairs: int) -> str | None:
    """Say that the number of weights is not that of the pairs, if so."""
    return None if weights == pairs else f"weights has {weights} entries but there are {pairs} pairs"


def weights_problem(weights: Mapping[Any, float]) -> str | None:
    """Say which weights are not finite numbers, or that there are none."""
    wrong = [f"{name}: {weight}" for name, weight in weights.items() if not math.isfinite(weight)]
    if not weights:
        return "weights must not be empty"
    return f"weights must be finite numbers, found {', '.join(wrong)}" if wrong else None


def check_pairs(params: Mapping[str, Any], context: CheckContext) -> Iterator[Complaint]:
    """Complain about lists that do not pair up and weights that do not fit them."""
    weights = params.get("weights")
    if weights is not None:
        yield from _complaints("weights", weights_problem(dict(enumerate(weights))))
    if not context.inputs:  # built by hand: the inputs are not known yet
        return
    problem = lists_problem(context.inputs)
    yield from _complaints(None, problem)
    if problem is None and weights is not None:
        pairs = next(len(bound) for bound in context.inputs.values() if isinstance(bound, list))
        yield from _complaints("weights", count_problem(len(weights), pairs))


def check_dict(params: Mapping[str, Any], context: CheckContext) -> Iterable[Complaint]:
    """Complain about weights that are not finite."""
    return _complaints("weights", weights_problem(params.get("weights", {})))


def check_masked(params: Mapping[str, Any], context: CheckContext) -> Iterable[Complaint]:
    """Complain when neither a mask nor an ignored label is given."""
    idle = context.inputs and "mask" not in context.inputs and params.get("ignore_index") is None
    return _complaints("ignore_index", NO_SELECTION if idle else None)


def check_causal(params: Mapping[str, Any], context: CheckContext) -> Iterable[Complaint]:
    """Complain when an input is a module: a fused head shifts its own positions."""
    bound = [text for each in context.inputs.values() for text in ([each] if isinstance(each, str) else each)]
    # A module's address takes neither call number nor keys, so the mark stands last.
    return _complaints(None, FUSED_HEAD if any(text.endswith("@module") for text in bound) else None)


def _complaints(param: str | None, problem: str | None) -> list[Complaint]:
    return [] if problem is None else [Complaint(problem, param)]
