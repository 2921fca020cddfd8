"""The range of every param: what the schema allows can be called."""

from __future__ import annotations

from kdcore.component import Kind
from kdcore.testing.check import LOSSES, check
from kdcore.testing.checks.basics import BASICS
from kdcore.testing.checks.params import edges, goes_together, names, with_param
from kdcore.testing.result import Finding, NotApplicable
from kdcore.testing.subject import Subject, all_finite, shown


@check(
    LOSSES | {Kind.ADAPTER, Kind.BALANCER},
    "called with params at the edge of what the schema allows it returns finite values, or says what does not fit",
    once=True,
    optional=True,
    after=(*BASICS, "bounds_accepted"),
)
def bounds_work(subject: Subject) -> None:
    """Call it with each listed value and each inclusive bound of its params, the example's for the others."""
    tried = False
    for name, value in edges(subject.registered.schema):
        changed = with_param(subject, name, value)
        if not goes_together(changed):
            continue
        tried = True
        how = f"the schema allows {name}: {value!r}, but "
        try:
            result = changed.call(changed.build(), changed.inputs())
        except Exception as error:  # it may fail in any way; the cause is chained and named
            # A refusal says what does not go together: the param, or an input.
            if isinstance(error, ValueError) and names(error, name, *subject.inputs()):
                continue
            raise Finding(
                f"{how}called with that it raised {type(error).__name__}: {error}. Narrow the schema, or raise "
                "ValueError with param, value and what is needed"
            ) from error
        if not all_finite(result):
            raise Finding(
                f"{how}called with that it returned {shown(result)}: not finite. Narrow the schema (exclusiveMinimum?) "
                "or treat the value apart"
            )
    if not tried:
        raise NotApplicable("none of its params has a list or an inclusive bound")
