"""The component under torch.compile."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import torch

from kdcore.component import Kind
from kdcore.testing.check import MODULES, check
from kdcore.testing.checks.basics import BASICS
from kdcore.testing.result import Finding
from kdcore.testing.subject import Subject, shown


@check(MODULES - {Kind.MODEL, Kind.BALANCER}, "compiled it gives the same value", optional=True, after=BASICS)
def compiles(subject: Subject) -> None:
    """Compile it without code generation, which is what takes long, and compare."""
    plain = subject.value(subject.build(), subject.inputs())
    with _quietly():
        torch.compiler.reset()
        compiled = torch.compile(subject.build(), backend="aot_eager", dynamic=False)
        found = subject.value(compiled, subject.inputs())
    if not torch.allclose(found, plain, rtol=1e-4, atol=1e-6, equal_nan=True):
        raise Finding(f"compiled it returned {shown(found)}, else {shown(plain)}")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    # The compiler logs thousands of lines, which pytest would print under every failure.
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
