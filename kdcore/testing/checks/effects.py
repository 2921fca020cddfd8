"""What a user writes counts: every param changes something."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.component import Kind
from kdcore.testing.check import LOSSES, MODULES, check
from kdcore.testing.checks.basics import BASICS
from kdcore.testing.checks.params import goes_together, with_param
from kdcore.testing.nested import tensors
from kdcore.testing.result import Finding, NotApplicable
from kdcore.testing.steps import STEPS, step
from kdcore.testing.subject import Subject
from kdcore.testing.use import Found, trained, used
from kdcore.testing.values import choices, others

# What rounding may change, relative to the largest number of a tensor; extractors and criteria are used in float32.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5}
# How many values a message names, and how many of another param that lists none are tried along.
NAMED, TURNED = 4, 5

Look = Callable[[Subject], Found]


@check(
    LOSSES | {Kind.BALANCER, Kind.ADAPTER, Kind.CRITERION, Kind.OUTPUT_EXTRACTOR},
    "another value of each param changes what it returns, a gradient or its state",
    once=True,
    optional=True,
    after=(*BASICS, "scores", "extracts"),
)
def params_count(subject: Subject) -> Iterator[str]:
    """Use it with other values of each param in each of its examples, for a step and then for a training."""
    _ = subject.given
    params = subject.registered.schema.get("properties", {})
    reasons = _reasons(subject, params)
    if not params:
        raise NotApplicable("it has no params")
    uses = Uses([replace(subject, example=each) for each in subject.others])
    idle = {}
    for name in params:
        tried, shown = uses.tried(name, briefly=name in reasons)
        if shown and name in reasons:
            raise Finding(
                f"an example says that {name} has no effect ({reasons[name]}), but {name}: {shown} has one. Leave it "
                "out of no_effect"
            )
        if not tried and name not in reasons:
            yield f"no other value of {name} is known, so it was not tried: let an example have one"
        if tried and not shown and name not in reasons:
            idle[name] = tried
    if idle:
        raise Finding(_said(idle))


def _reasons(subject: Subject, params: Mapping[str, Any]) -> dict[str, str]:
    """Return why params have no effect, as the examples say; raises Finding for other names and for no reason."""
    found = {name: reason for each in subject.others for name, reason in each.no_effect.items()}
    for name, reason in found.items():
        if name not in params:
            raise Finding(f"an example gives a reason why {name} has no effect, which is none of its params")
        if not reason.strip():
            raise Finding(f"an example says without a reason that {name} has no effect: say why")
    return found


def _said(idle: dict[str, list[str]]) -> str:
    parts = [f"{name} ({', '.join(tried[:NAMED])}{', ...' * (len(tried) > NAMED)})" for name, tried in idle.items()]
    return (
        f"in no example another value of {' or '.join(parts)} changed what it returned, a gradient or its state: what "
        "a user writes there is ignored. Use it or take it away; if it counts elsewhere, add an example in which it "
        'does; if it only guards, or only saves time or memory, say so: Example(no_effect={"'
        + next(iter(idle))
        + '": "why"})'
    )


class Uses:
    """The component's examples, and what each use of one comes to."""

    def __init__(self, subjects: list[Subject]) -> None:
        self.subjects = subjects
        self._found: dict[tuple[Look, str], Found | None] = {}

    def tried(self, name: str, *, briefly: bool) -> tuple[list[str], str]:
        """Return the values of a param that were tried, and the one that made a difference, if any."""
        tried: dict[str, None] = {}
        ways = ((_first, False), (_later, False), (_first, True))
        for look, turned in ways[:1] if briefly else ways:
            for where, base in self._turned(name) if turned else ((each.given.name, each) for each in self.subjects):
                for value in others(base, name):
                    changed = with_param(base, name, value)
                    if not goes_together(changed) or not _constructed(changed):
                        continue
                    usual = self._usual(look, where, base)
                    if usual is None:
                        break  # it cannot be used so at all
                    tried[repr(value)] = None
                    found = _looked(look, changed)
                    # What set-up or a call refuse after the constructor took it, they have read.
                    if found is None or _differ(usual, found):
                        return list(tried), repr(value)
        return list(tried), ""

    def _turned(self, name: str) -> Iterator[tuple[str, Subject]]:
        """Yield the examples with another of the params changed, since one may count under another only."""
        for base in self.subjects:
            for other, part in base.registered.schema["properties"].items():
                values = [*choices(part), *itertools.islice(others(base, other), TURNED)] if other != name else []
                for value in values:
                    changed = with_param(base, other, value)
                    if goes_together(changed) and _constructed(changed):
                        yield f"{base.given.name}, {other}: {value!r}", changed

    def _usual(self, look: Look, where: str, base: Subject) -> Found | None:
        key = (look, where)
        if key not in self._found:
            self._found[key] = _looked(look, base)
        return self._found[key]


def _constructed(subject: Subject) -> bool:
    try:
        subject.construct()
    except Exception:  # another check asks whether it may refuse this
        return False
    return True


def _looked(look: Look, subject: Subject) -> Found | None:
    try:
        return look(subject)
    except Exception:  # other checks say what it must not raise
        return None


def _first(subject: Subject) -> Found:
    """Return the state at the beginning, and what the first step comes to."""
    if subject.kind not in MODULES:
        return used(subject, 0)
    built = subject.build(torch.float64)
    inputs = subject.inputs(dtype=torch.float64)
    return [*_state(built), *trained(subject, built, inputs), *_shapes(subject, inputs)]


def _shapes(subject: Subject, inputs: dict[str, Any]) -> Found:
    """Return the shapes of an adapter's output, which its value does not tell."""
    if subject.kind is not Kind.ADAPTER:
        return []
    with torch.no_grad():
        return [each.shape for each in tensors(subject.call(subject.build(torch.float64), inputs))]


def _later(subject: Subject) -> Found:
    """Return the values of a training, the state at its end, and a value in eval mode."""
    if subject.kind not in MODULES:
        return []
    built = subject.build(torch.float64)
    values = [step(subject, built, number, dtype=torch.float64) for number in range(STEPS)]
    with torch.no_grad():
        built.eval()
        return [*values, *_state(built), subject.value(built, subject.inputs(dtype=torch.float64))]


def _state(built: nn.Module) -> Found:
    return [each.detach().clone() for each in built.state_dict().values() if isinstance(each, Tensor)]


def _differ(one: Found, other: Found) -> bool:
    return len(one) != len(other) or not all(_near(*each) for each in zip(one, other, strict=True))


def _near(one: Any, other: Any) -> bool:
    """Whether two results are one but for rounding."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return bool(one == other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype not in ROUNDING:
        return torch.equal(one, other)
    largest = float(one.nan_to_num(0, 0, 0).abs().max()) if one.numel() else 0.0
    return torch.allclose(other, one, rtol=0, atol=ROUNDING[one.dtype] * largest, equal_nan=True)
