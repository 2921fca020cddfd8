"""A named check, and the list of them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdcore.component import Kind

if TYPE_CHECKING:
    from kdcore.testing.subject import Subject

# Yields what is not wrong but should be better; raises Finding or NotApplicable.
Look = Callable[["Subject"], Iterable[str] | None]

ALL = frozenset(Kind)
LOSSES = frozenset({Kind.LOSS, Kind.WRAPPER})
SCALARS = LOSSES | {Kind.BALANCER}
MODULES = SCALARS | {Kind.ADAPTER, Kind.MODEL}
CALLED = MODULES | {Kind.OUTPUT_EXTRACTOR}


@dataclass(frozen=True)
class Check:
    """One thing that is true of a right component.

    Arguments:
        name: a public name, which examples opt out by.
        summary: what it makes sure of.
        look: looks at a component, and raises what is wrong.
        kinds: the kinds of component it applies to.
        optional: whether an example may opt out, with a reason.
        once: whether it looks at the component alone, whatever the example.
        slow: whether it takes seconds, and runs on demand.
        after: the checks that must have passed before this one can tell anything.
        strictly: those whose findings cannot be set aside for it, since it would come upon the same mistake.
    """

    name: str
    summary: str
    look: Look
    kinds: frozenset[Kind]
    optional: bool = False
    once: bool = False
    slow: bool = False
    after: tuple[str, ...] = ()
    strictly: tuple[str, ...] = ()


CHECKS: dict[str, Check] = {}


def check(
    kinds: Iterable[Kind],
    summary: str,
    *,
    optional: bool = False,
    once: bool = False,
    slow: bool = False,
    after: tuple[str, ...] = (),
    strictly: tuple[str, ...] = (),
) -> Callable[[Look], Look]:
    """Enter a function among the checks under its own name."""

    def enter(look: Look) -> Look:
        name = look.__name__
        CHECKS[name] = Check(name, summary, look, frozenset(kinds), optional, once, slow, after, strictly)
        return look

    return enter
