"""Runs the checks on a component."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import kdcore.testing.checks  # noqa: F401 - enters the checks
from kdcore.errors import PluginError, suggestion
from kdcore.plugins import Registered
from kdcore.testing.aside import set_aside
from kdcore.testing.check import CHECKS, Check
from kdcore.testing.defaults import kept_defaults
from kdcore.testing.derived import DERIVED, derive
from kdcore.testing.example import Example
from kdcore.testing.result import Finding, NotApplicable, Outcome, Result
from kdcore.testing.subject import Subject


def examples_of(registered: Registered) -> list[Example]:
    """Return the examples that a component names, else the one that its kind and inputs suggest, if any.

    Raises PluginError where what it names does not exist or is no list of examples.
    """
    named = registered.component.examples
    if named is None:
        return _derived(registered)
    try:
        module, _, name = named.partition(":")
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise PluginError(
            f"{registered}: its examples {named!r} cannot be imported: {error}",
            repair='examples="package.module:NAME" names a list of kdcore.testing.Example',
        ) from error
    # One module may hold the examples of several components, by name.
    if isinstance(found, dict):
        found = found[registered.name] if registered.name in found else _derived(registered)
    if not isinstance(found, Sequence) or not all(isinstance(each, Example) for each in found):
        raise PluginError(
            f"{registered}: {named} is a {type(found).__name__}",
            repair="write a list of kdcore.testing.Example, or a dict of such lists by the component's name",
        )
    return list(found)


def _derived(registered: Registered) -> list[Example]:
    made = derive(registered)
    return [made] if made else []


class Conformance:
    """The checks of one component on all its examples; each runs once, and those it relies on before it.

    Arguments:
        registered: the component.
        examples: on what to run; unless given, those that the component names, or one derived from its inputs.

    Raises PluginError for two examples of one name, and for one that skips an unknown or required check or gives
    no reason.
    """

    def __init__(self, registered: Registered, examples: Iterable[Example] | None = None) -> None:
        self.registered = registered
        found = examples_of(registered) if examples is None else list(examples)
        _check_examples(registered, found)
        others = tuple(found)
        self.subjects = {each.name: Subject(registered, each, others) for each in found} or {"": Subject(registered)}
        self._results: dict[tuple[str, str], Result] = {}

    def trials(self, *, slow: bool = False) -> Iterator[tuple[Check, str]]:
        """Yield each check that applies to the kind, with the name of each example it runs on."""
        for check in CHECKS.values():
            if self.registered.kind in check.kinds and (slow or not check.slow):
                yield from ((check, name) for name in ([next(iter(self.subjects))] if check.once else self.subjects))

    def run(self, *, slow: bool = False) -> list[Result]:
        """Run every check and return what each found."""
        return [self.result(check, name) for check, name in self.trials(slow=slow)]

    def result(self, check: Check, example: str) -> Result:
        """Return what one check finds on one example."""
        key = (check.name, "" if check.once else example)
        if key not in self._results:
            self._results[key] = self._run(check, example)
        return self._results[key]

    def _run(self, check: Check, name: str) -> Result:
        subject = self.subjects[name]
        shown = "" if check.once else name
        reason = self._skipped(check, name)
        if reason:
            return self._needless(check, subject, shown) or Result(check.name, Outcome.SKIPPED, reason, shown)
        causes = tuple(dict.fromkeys(self._causes(check, name)))
        for cause in causes:
            without = None if cause in check.strictly else set_aside(subject, cause)
            if without is None:
                message = f"it waits for {cause}, which failed"
                return Result(check.name, Outcome.NOT_APPLICABLE, message, shown, waits_for=cause)
            subject = without
        return replace(self._look(check, subject, shown), without=causes)

    def _causes(self, check: Check, name: str) -> Iterator[str]:
        """Yield what failed among the checks that one relies on, or among those that these rely on."""
        for earlier in check.after:
            if self.registered.kind in CHECKS[earlier].kinds:
                found = self.result(CHECKS[earlier], name)
                yield from [found.waits_for or earlier] if found.failed or found.waits_for else found.without

    def _look(self, check: Check, subject: Subject, shown: str) -> Result:
        try:
            with kept_defaults(), warnings.catch_warnings():
                # What torch warns of at the edges of what it can do is no news to whoever asked for that.
                warnings.simplefilter("ignore")
                notes = tuple(check.look(subject) or ())
        except NotApplicable as answer:
            return Result(check.name, Outcome.NOT_APPLICABLE, str(answer), shown)
        except Finding as finding:
            return Result(check.name, Outcome.FAILED, f"{finding}{_advice(check, subject)}", shown, error=finding)
        except Exception as error:  # a component may fail in any way; the result holds the cause
            message = f"it raised {type(error).__name__}: {error}{_advice(check, subject)}"
            return Result(check.name, Outcome.FAILED, message, shown, error=error)
        return Result(check.name, Outcome.PASSED, "", shown, notes)

    def _needless(self, check: Check, subject: Subject, shown: str) -> Result | None:
        """Return a failure if there is nothing that the check would look at, which a reason not to run it hides."""
        if check.slow:
            return None
        try:
            with kept_defaults(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tuple(check.look(subject) or ())
        except NotApplicable as answer:
            message = f"the example skips it, but it does not apply: {answer}. Leave it out of skip"
            return Result(check.name, Outcome.FAILED, message, shown)
        except Exception:  # whatever it raises is what the reason is for
            return None
        return None

    def _skipped(self, check: Check, name: str) -> str:
        asked = self.subjects.values() if check.once else [self.subjects[name]]
        reasons = (each.example.skip.get(check.name, "") for each in asked if each.example)
        return next(filter(None, reasons), "")


def _advice(check: Check, subject: Subject) -> str:
    guessed = subject.example is not None and subject.example.name == DERIVED
    first = check.name in ("builds", "finite")
    return (
        " (its example is a guess from the manifest; name a right one with Component.examples)"
        if guessed and first
        else ""
    )


def _check_examples(registered: Registered, examples: Sequence[Example]) -> None:
    names = [each.name for each in examples]
    if len(set(names)) != len(names):
        raise PluginError(f"{registered}: two examples have one name: {', '.join(names)}", repair="give each its own")
    for example in examples:
        for name, reason in example.skip.items():
            where = f"{registered}, example {example.name!r}"
            if name not in CHECKS:
                optional = [each.name for each in CHECKS.values() if each.optional]
                raise PluginError(
                    f"{where} skips {name!r}, which is no check",
                    repair=suggestion(name, optional, noun="optional checks"),
                )
            if registered.kind not in CHECKS[name].kinds:
                raise PluginError(
                    f"{where} skips {name!r}, a check that does not apply (kind: {registered.kind.title})",
                    repair="leave it out",
                )
            if not CHECKS[name].optional:
                raise PluginError(f"{where} skips {name!r}, which is required", repair="mend the component")
            if not reason.strip():
                raise PluginError(f"{where} skips {name!r} without a reason", repair="say why it does not hold")
