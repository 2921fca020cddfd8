"""The defaults of the process belong to the run: a component uses them and does not set them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kdcore.testing.check import ALL, MODULES, check
from kdcore.testing.defaults import defaults, replaced, shared_functions, usual_defaults
from kdcore.testing.reimport import afresh
from kdcore.testing.result import Finding, NotApplicable
from kdcore.testing.subject import Subject
from kdcore.testing.use import trained, used


@check(
    ALL,
    "imported, built and called it leaves the defaults of torch, numpy and Python as they are, and their functions",
    after=("builds",),
)
def defaults_kept(subject: Subject) -> None:
    """Import its package afresh, build it, call it, forward and backward, in training and evaluation, and compare."""
    # What a library sets when it is first imported, for a first call perhaps, is its own affair.
    try:
        _look(subject)
    except Finding:
        _look(subject)


def _look(subject: Subject) -> None:
    with usual_defaults():
        before, functions = defaults(), shared_functions()
        with afresh(subject) as fresh:
            for how, use in _uses(fresh):
                failed = _failure(use)
                _check_same(before, defaults(), how)
                if failed:
                    raise NotApplicable(f"{how} it raised {type(failed).__name__}: {failed}")
            _check_functions(functions)


def _failure(use: Callable[[], object]) -> Exception | None:
    try:
        use()
    except Exception as error:  # that it fails is for other checks to say
        return error
    return None


def _uses(subject: Subject) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "imported", lambda: None
    yield "built", subject.build
    if subject.kind not in MODULES:
        yield "used", lambda: used(subject, 0)
    elif subject.given.inputs is not None:
        yield "called in training", lambda: trained(subject, subject.build(), subject.inputs())
        yield "called in eval mode", lambda: subject.call(subject.build().eval(), subject.inputs())


def _check_same(before: Mapping[str, Any], after: Mapping[str, Any], how: str) -> None:
    for name, value in before.items():
        if after[name] != value:
            raise Finding(
                f"{how} it changes {name}, {_difference(value, after[name])}: everything else in the process, other "
                "terms and the models too, goes by that from then on. Say what you need where you need it (dtype=, "
                "device=, with torch.no_grad():, with warnings.catch_warnings():)"
            )


def _difference(before: Any, after: Any) -> str:
    """Show what changed; of a list or mapping, the first thing that did."""
    if isinstance(before, Mapping):
        key = next(each for each in {**before, **after} if before.get(each, before) != after.get(each, before))
        return f"{key} from {before.get(key, 'absent')} to {after.get(key, 'absent')}"
    if isinstance(before, list):
        new = [each for each in after if each not in before]
        return f"which now has {new[0]}" if new else "which lacks some or has them in another order"
    return f"from {before} to {after}"


def _check_functions(before: Mapping[Any, Mapping[str, Any]]) -> None:
    for owner, name in replaced(before):
        raise Finding(
            f"it puts something else in the place of {owner.__name__}.{name}, which everybody calls. Write a function "
            "of your own and call that"
        )
