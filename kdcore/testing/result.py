"""What a check found."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Outcome(enum.StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    NOT_APPLICABLE = "not applicable"


class Finding(Exception):  # noqa: N818 - what a check says about a component, no fault of the check
    """What is wrong with a component: what was done, what was found, what to do."""


class NotApplicable(Exception):  # noqa: N818 - an answer, no error
    """There is nothing for the check to look at, and why."""


@dataclass(frozen=True)
class Result:
    """The outcome of one check.

    Arguments:
        check: the check's name.
        outcome: how it ended.
        message: of a failure, what was done, what was found and what to do; else the reason for not running.
        example: the example's name, empty for checks that run once per component.
        notes: what is not wrong but should be better.
        error: what the component raised, if that is why it failed.
        waits_for: the check that must pass first, and did not.
        without: the checks that failed before, whose findings were set aside for this one.
    """

    check: str
    outcome: Outcome
    message: str = ""
    example: str = ""
    notes: tuple[str, ...] = ()
    error: Exception | None = None
    waits_for: str = ""
    without: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the component is wrong."""
        return self.outcome is Outcome.FAILED
