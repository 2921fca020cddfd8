"""The conformance kit: named checks that tell whether a component keeps what the core and its users rely on.

Only `ComponentTests`, which a plugin's tests inherit, needs pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdcore.testing.check import CHECKS, Check
from kdcore.testing.conformance import Conformance
from kdcore.testing.example import Example
from kdcore.testing.result import Outcome, Result

if TYPE_CHECKING:
    from kdcore.testing.suite import ComponentTests

__all__ = ["CHECKS", "Check", "ComponentTests", "Conformance", "Example", "Outcome", "Result"]


def __getattr__(name: str) -> Any:
    if name == "ComponentTests":
        from kdcore.testing.suite import ComponentTests

        return ComponentTests
    raise AttributeError(f"module 'kdcore.testing' has no attribute {name!r}")
