"""A param that changes nothing is found, one that changes little is not, and an opt-out needs a reason that holds."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kdcore.component import Kind
from kdcore.plugins import Registered, Registry
from kdcore.testing import CHECKS, Conformance, Example, Outcome, Result
from tests.testing import test_wrong_parts
from tests.testing.test_wrong_losses import TEMPERATURE, failures, logits, registered
from tests.testing.wrong import effects

OTHERS: dict[Any, dict[str, Any]] = {
    effects.IgnoresItsTemperature: {},
    effects.IgnoresTwo: {"squared": {"type": "boolean", "default": True}},
    effects.Guards: {"eps": {"type": "number", "minimum": 0, "maximum": 1e-6, "default": 1e-12}},
    effects.Later: {"begin": {"type": "integer", "minimum": 0, "default": 3}},
    effects.UnderAnother: {
        "mode": {"enum": ["plain", "power"], "default": "plain"},
        "power": {"type": "number", "minimum": 1, "maximum": 4, "default": 2.0},
    },
}


def component(factory: Any) -> Registered:
    others = {name: {**each, "description": "a test"} for name, each in OTHERS[factory].items()}
    properties = {"temperature": TEMPERATURE, **others}
    return registered(factory, schema={"type": "object", "additionalProperties": False, "properties": properties})


def counted(factory: Any, **options: Any) -> Result:
    conformance = Conformance(component(factory), [Example(inputs=logits, **options)])
    return conformance.result(CHECKS["params_count"], "default")


WRONG = [
    (effects.IgnoresItsTemperature, r"another value of temperature \(4\.0, 1\.0, 0\.5, 3, \.\.\.\) changed"),
    (effects.IgnoresTwo, r"another value of temperature \(.*\) or squared \(False\) changed what it returned"),
    (effects.Guards, r"eps \(2e-12, .*\) changed .* say so: Example\(no_effect=\{\"eps\": \"why\"\}\)"),
]


@pytest.mark.parametrize(("factory", "message"), WRONG, ids=[each.__name__ for each, _ in WRONG])
def test_a_param_without_effect_is_found_by_its_check_alone(factory: Any, message: str) -> None:
    found = failures(component(factory), [Example(inputs=logits)], also="params_count")
    assert list(found) == ["params_count"], found
    assert re.search(message, found["params_count"]), found


PARTS = [
    (Kind.WRAPPER, effects.IdleWrapper),
    (Kind.BALANCER, effects.IdleBalancer),
    (Kind.ADAPTER, effects.IdleAdapter),
    (Kind.OUTPUT_EXTRACTOR, effects.IdleExtractor),
    (Kind.CRITERION, effects.IdleCriterion),
]


@pytest.mark.parametrize(("kind", "factory"), PARTS, ids=[part.__name__ for _, part in PARTS])
def test_a_param_of_a_part_without_effect(kind: Kind, factory: Any) -> None:
    share = {"type": "number", "default": 0.5, "description": "a test"}
    schema = {"type": "object", "additionalProperties": False, "properties": {"share": share}}
    part = Registry().register(
        kind, "test", factory, schema=schema, inputs=test_wrong_parts.INPUTS.get(kind, ()), summary="a test"
    )
    conformance = Conformance(part, test_wrong_parts.EXAMPLES.get(kind))
    found = [result.check for result in conformance.run() if result.failed]
    assert found == ["params_count"], found


@pytest.mark.parametrize("factory", [effects.Later, effects.UnderAnother])
def test_what_counts_later_or_under_another_param_passes(factory: Any) -> None:
    assert counted(factory).outcome is Outcome.PASSED


def test_what_only_guards_says_so() -> None:
    assert counted(effects.Guards, no_effect={"eps": "only guards a division"}).outcome is Outcome.PASSED


@pytest.mark.parametrize(
    ("reasons", "message"),
    [
        (
            {"eps": "only guards", "temperature": "no"},
            r"temperature has no effect \(no\), but temperature: 4\.0 has one",
        ),
        ({"eps": "only guards", "epsilon": "no"}, "why epsilon has no effect, which is none of its params"),
        ({"eps": " "}, "without a reason that eps has no effect"),
    ],
)
def test_an_opt_out_that_does_not_hold(reasons: dict[str, str], message: str) -> None:
    found = counted(effects.Guards, no_effect=reasons)
    assert found.failed
    assert re.search(message, found.message), found.message


def test_the_check_can_be_skipped_as_a_whole() -> None:
    found = counted(effects.Guards, skip={"params_count": "counts on three devices only"})
    assert (found.outcome, found.message) == (Outcome.SKIPPED, "counts on three devices only")
