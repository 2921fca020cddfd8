"""Mistakes set aside: the component as it would be without what one check found, so that others can be asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from kdcore.plugins import Registered
from kdcore.testing.reimport import afresh
from kdcore.testing.subject import Subject


def set_aside(subject: Subject, check: str) -> Subject | None:
    """Return the subject without the mistake that a check found, or None where that cannot be."""
    return _WITHOUT[check](subject) if check in _WITHOUT else None


def _with_copies(subject: Subject) -> Subject:
    return replace(subject, copied=True)


def _without_graphs(subject: Subject) -> Subject:
    return replace(subject, detached=True)


def _apart(subject: Subject) -> Subject | None:
    if isinstance(subject.registered.component.factory, Apart):
        return subject
    with afresh(subject) as other:
        if other.registered is subject.registered:
            return None  # there can be no second import
    component = replace(subject.registered.component, factory=Apart(subject.registered))
    return replace(subject, registered=replace(subject.registered, component=component))


@dataclass(frozen=True)
class Apart:
    """Makes each instance from an import of its package of its own, so that no two share anything."""

    registered: Registered

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make an instance."""
        with afresh(Subject(self.registered)) as own:
            return own.registered.factory()(*args, **kwargs)


_WITHOUT: dict[str, Callable[[Subject], Subject | None]] = {
    "inputs_unchanged": _with_copies,
    "graphs_released": _without_graphs,
    "instances_apart": _apart,
}
