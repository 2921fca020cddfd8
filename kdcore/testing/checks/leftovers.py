"""What outlives the instance that left it: caches, closures, default arguments, module globals."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import CellType, FunctionType
from typing import Any

import torch

from kdcore.testing.check import ALL, MODULES, check
from kdcore.testing.reimport import afresh
from kdcore.testing.result import Finding
from kdcore.testing.subject import Subject, shown
from kdcore.testing.surroundings import content, contents, owners, places_in
from kdcore.testing.use import Found, alike, overwrite, trained, used

ASKED, BEFORE = 1, 2
# Another size than that of the batches that are compared.
ODD = 7


@check(
    ALL,
    "a fresh instance returns what it would in a fresh process, whatever others were called with before",
    after=("finite", "inputs_unchanged", "graphs_released", "instances_apart", "samples", "scores", "suggestions"),
    strictly=("instances_apart",),
)
def leaves_nothing(subject: Subject) -> None:
    """Use it in its package imported afresh, at once and after other instances on other inputs, and compare."""
    with afresh(subject) as first:
        expected = used(first, ASKED)
    with afresh(subject) as second:
        _use_others(second)
        found = used(second, ASKED)
    if not alike(expected, found) and _repeats(subject, expected):
        kept = ", ".join(_keepers(subject))
        raise Finding(
            f"used after other instances on other inputs, a fresh instance came to {_shown(found)}, as the first of a "
            f"process to {_shown(expected)}: something outlives the instances"
            + (f", in {kept}" if kept else ", as in a functools.cache, a closure or a module's global")
            + ". A resumed run would depend on it. Keep it in a buffer, or make it from shapes alone"
        )
    if subject.kind in MODULES:
        _check_memory(subject)


def _use_others(subject: Subject) -> None:
    """Use other instances on other numbers, in another dtype, and in eval mode on another number of samples."""
    used(subject, BEFORE)
    if subject.kind not in MODULES:
        return
    # What a component refuses is no matter here; what it leaves behind is.
    with contextlib.suppress(Exception):
        subject.call(subject.build(torch.float64), subject.inputs(BEFORE, dtype=torch.float64))
    with contextlib.suppress(Exception), torch.no_grad():
        subject.call(subject.build(batch=ODD).eval(), subject.inputs(BEFORE, ODD))


def _repeats(subject: Subject, expected: Found) -> bool:
    """Whether another first use comes to the same; where it does not, it draws what no seed reaches."""
    with afresh(subject) as third:
        return alike(expected, used(third, ASKED))


def _check_memory(subject: Subject) -> None:
    """Use the same tensors with other numbers in them: memory is used again from step to step."""
    expected = _second_step(subject, subject.inputs(BEFORE), subject.inputs(ASKED))
    again = subject.inputs(BEFORE)
    found = _second_step(subject, again, again)
    if not alike(expected, found) and alike(
        expected, _second_step(subject, subject.inputs(BEFORE), subject.inputs(ASKED))
    ):
        raise Finding(
            f"with new numbers in the tensors of the batch before it came to {_shown(found)}, with the same numbers in "
            f"other tensors to {_shown(expected)}: it keeps what it made of a tensor by its id or address, which the "
            "next batch may have too. Make it anew, or keep it by sample index"
        )


def _second_step(subject: Subject, before: Mapping[str, Any], then: Mapping[str, Any]) -> Found:
    """Do a step, then one on other numbers, written into the same tensors if these are given twice."""
    built = subject.build()
    trained(subject, built, before)
    if then is before:
        overwrite(then, subject.inputs(ASKED))
    return trained(subject, built, then)


def _keepers(subject: Subject) -> list[str]:
    """Return where the component's package holds something after a use that was not there before."""
    with afresh(subject) as third:
        package = third.registered.factory().__module__.split(".", maxsplit=1)[0]
        before = _contents(package)
        used(third, BEFORE)
        return sorted(where for where, value in _contents(package).items() if before.get(where) != value)


def _contents(package: str) -> dict[str, bytes]:
    """Return what the names and functions of a package hold, those left out that cannot be compared."""
    found = contents(places_in(package))
    for owner, module in owners(package):
        for name, value in vars(owner).items():
            held = content(_held(value)) if getattr(value, "__module__", None) == module else None
            if held is not None:
                found[f"{getattr(owner, '__qualname__', module)}.{name}"] = held
    return found


def _held(value: Any) -> Any:
    """Return what a function holds from call to call: in its cache, its closure, its defaults or its attributes."""
    if hasattr(value, "cache_info"):
        return value.cache_info().currsize
    if not isinstance(value, FunctionType):
        return None
    return [
        *(cell.cell_contents for cell in value.__closure__ or () if _filled(cell)),
        value.__defaults__,
        {name: each for name, each in vars(value).items() if name != "__wrapped__"},
    ]


def _filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True


def _shown(found: Found) -> str:
    return shown(found[0]) if found else "nothing"
