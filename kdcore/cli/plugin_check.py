"""`kd plugins check`: the conformance checks of a component, or of all that a distribution offers."""

from __future__ import annotations

import collections
import json as json_
import textwrap
from collections.abc import Sequence
from typing import Any

from kdcore.plugins import Registered
from kdcore.testing import CHECKS, Conformance, Outcome, Result

WIDTH = 120
MARKS = {Outcome.FAILED: "FAILED", Outcome.SKIPPED: "skipped"}


def check(components: Sequence[Registered], *, slow: bool, json: bool) -> int:
    """Run the checks, print what they found and return 1 if any failed."""
    found = [(each, Conformance(each).run(slow=slow)) for each in components]
    if json:
        print(json_.dumps([_as_data(registered, results) for registered, results in found], indent=2))
    else:
        for registered, results in found:
            _print(registered, results)
    return int(any(result.failed for _, results in found for result in results))


def _print(registered: Registered, results: Sequence[Result]) -> None:
    print(registered)
    for result in results:
        if result.outcome in MARKS:
            _say(MARKS[result.outcome], _title(result), result.message)
        for note in result.notes:
            _say("note", _title(result), note)
    # One reason may keep many checks from running; it is said once.
    reasons = collections.Counter(each.message for each in results if each.outcome is Outcome.NOT_APPLICABLE)
    for reason, count in reasons.items():
        _say("not run", f"{count} check{'s' if count > 1 else ''}", reason)
    counts = collections.Counter(each.outcome for each in results)
    print("  " + ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome]))


def _say(mark: str, title: str, message: str) -> None:
    text = f"{mark:<8} {title}: {message}"
    print(textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent=" " * 11, break_long_words=False))


def _title(result: Result) -> str:
    return f"{result.check} ({result.example})" if result.example not in ("", "default", "derived") else result.check


def _as_data(registered: Registered, results: Sequence[Result]) -> dict[str, Any]:
    return {
        "kind": str(registered.kind),
        "name": registered.name,
        "distribution": registered.provenance.distribution,
        "version": registered.provenance.version,
        "failed": any(result.failed for result in results),
        "results": [
            {
                "check": result.check,
                "summary": CHECKS[result.check].summary,
                "required": not CHECKS[result.check].optional,
                "example": result.example,
                "outcome": str(result.outcome),
                "message": result.message,
                "notes": list(result.notes),
            }
            for result in results
        ],
    }
