"""Names of terms in params, and the losses that models return; torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kdcore.errors import suggestion


def name_problem(name: str, terms: Iterable[str], *, more_terms: bool) -> str | None:
    """Say that no term is called `name`, if so; a dot marks terms that a model may still return."""
    known = list(terms)
    if name in known or (more_terms and "." in name):
        return None
    return f"there is no term {name!r}: {suggestion(name, known, noun='terms')}"


def model_key(term: str) -> str:
    """Return the key that a model gave to a loss, from `<model>.<key>`."""
    return term.partition(".")[2]


def model_weights(model_weight: Mapping[str, float] | float | None, terms: Iterable[str]) -> dict[str, float]:
    """Return the weight of each loss that a model returns, without those to leave out.

    Raises ValueError where a mapping and the terms do not name the same losses.
    """
    names = list(terms)
    if not isinstance(model_weight, Mapping):
        return dict.fromkeys(names, model_weight) if model_weight else {}
    listed = ", ".join(model_weight)
    weights = {}
    for name in names:
        found = name if name in model_weight else model_key(name)
        if found not in model_weight:
            raise ValueError(f"the model returns the loss {name}, which model_weight does not list ({listed}): add it")
        weights[name] = model_weight[found]
    known = [*names, *map(model_key, names)]
    for name in model_weight:
        if name not in known:
            raise ValueError(
                f"model_weight lists {name}, but no model returns such a loss: "
                + suggestion(name, known, noun="losses of the models")
            )
    return {name: weight for name, weight in weights.items() if weight}
