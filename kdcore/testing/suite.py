"""The tests that a plugin inherits: one for each check, component and example."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import pytest

from kdcore.errors import PluginError, suggestion
from kdcore.plugins import Registered, registry
from kdcore.testing.check import Check
from kdcore.testing.conformance import Conformance
from kdcore.testing.derived import DERIVED
from kdcore.testing.example import Example
from kdcore.testing.result import Finding, Outcome


class Trial(NamedTuple):
    """One check on one example."""

    conformance: Conformance
    check: Check
    example: str

    @property
    def title(self) -> str:
        """How pytest names it."""
        registered = self.conformance.registered
        example = [] if self.check.once or self.example in ("", "default", DERIVED) else [self.example]
        return "-".join([registered.kind, registered.name, *example, self.check.name])


class ComponentTests:
    """Every check on every component of a distribution, each as a test of its own.

    Inherit, and name what is tested:

        class TestConformance(ComponentTests):
            distribution = "kd-plugin-cosine"

    Arguments:
        distribution: all components that it offers.
        component: or only one, as `loss/cosine`.
        examples: by the component's name; unless given, those that the component itself names.
        slow: whether slow checks run too; they carry the mark `slow` where the project has one.
    """

    distribution: ClassVar[str] = ""
    component: ClassVar[str] = ""
    examples: ClassVar[Mapping[str, Sequence[Example]]] = {}
    slow: ClassVar[bool] = True

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make one test per trial."""
        if "trial" in metafunc.fixturenames:
            marked = any(line.startswith("slow") for line in metafunc.config.getini("markers"))
            params = [
                pytest.param(trial, id=trial.title, marks=[pytest.mark.slow] if trial.check.slow and marked else [])
                for trial in self.trials()
            ]
            metafunc.parametrize("trial", params)

    def test_conforms(self, trial: Trial) -> None:
        """Run one check."""
        result = trial.conformance.result(trial.check, trial.example)
        for note in result.notes:
            warnings.warn(f"{trial.conformance.registered}: {note}", stacklevel=1)
        if result.outcome in (Outcome.SKIPPED, Outcome.NOT_APPLICABLE):
            pytest.skip(result.message)
        if result.failed:
            cause = None if isinstance(result.error, Finding) else result.error
            raise AssertionError(f"{trial.conformance.registered}, {result.check}: {result.message}") from cause

    @classmethod
    def registered(cls) -> list[Registered]:
        """Return the components under test; raises PluginError where there are none."""
        if cls.component:
            kind, _, name = cls.component.partition("/")
            return [registry().find(kind, name)]
        found = [each for each in registry().all() if each.provenance.distribution == cls.distribution]
        if not found:
            broken = [str(each) for each in registry().broken if each.provenance.distribution == cls.distribution]
            known = {each.provenance.distribution for each in registry().all()}
            raise PluginError(
                f"{cls.__name__} tests distribution {cls.distribution!r}, which offers nothing here: "
                + ("; ".join(broken) or "it is not installed"),
                repair="" if broken else suggestion(cls.distribution, known, noun="distributions"),
            )
        return found

    @classmethod
    def trials(cls) -> Iterator[Trial]:
        """Yield every check on every component and example."""
        for registered in cls.registered():
            conformance = Conformance(registered, cls.examples.get(registered.name))
            for check, example in conformance.trials(slow=cls.slow):
                yield Trial(conformance, check, example)
