"""What a pruning criterion scores, learns and remembers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdcore.component import Kind
from kdcore.contracts import flag_of
from kdcore.pruning.blocks import Blocks
from kdcore.pruning.layout import Layout
from kdcore.pruning.pattern import Pattern
from kdcore.testing.check import check
from kdcore.testing.checks.state import reread
from kdcore.testing.nested import tensors
from kdcore.testing.result import Finding
from kdcore.testing.subject import Subject, shown
from kdcore.testing.use import Found, uses

CRITERION = {Kind.CRITERION}
METHODS = ("update", "score", "state_dict", "load_state_dict")
PATTERNS = ("1x1", "4x1", "filter", "2:4")
SHAPES = {"fc.weight": (8, 12), "conv.weight": (8, 4, 3, 3)}
STEPS = 3


@dataclass(frozen=True)
class Task:
    """Two weights under one pattern, and what a criterion is shown of them."""

    pattern: str
    dtype: torch.dtype = torch.float32

    @property
    def blocks(self) -> dict[str, Blocks]:
        """The pattern over each weight."""
        return {name: Layout(shape).blocks(Pattern.parse(self.pattern), "mean") for name, shape in SHAPES.items()}

    def draw(self, seed: int) -> dict[str, Tensor]:
        """Return weights or gradients, the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        return {name: torch.randn(shape, generator=generator, dtype=self.dtype) for name, shape in SHAPES.items()}

    def learn(self, criterion: Any, seeds: Iterable[int]) -> None:
        """Show the gradients of steps, one for each seed, as the pruner does."""
        weights, blocks = self.draw(0), self.blocks
        for seed in seeds:
            gradients = self.draw(seed)
            for name, weight in weights.items():
                criterion.update(name, weight, gradients[name], blocks[name])

    def scores(self, criterion: Any) -> dict[str, Tensor]:
        """Return a copy of the scores of both weights."""
        weights, blocks = self.draw(0), self.blocks
        return {name: criterion.score(name, weight, blocks[name]).clone() for name, weight in weights.items()}


def tasks(criterion: Any, dtype: torch.dtype = torch.float32) -> list[Task]:
    """Return a task for every pattern that the criterion is used with."""
    per_block = flag_of(criterion, "per_block")
    return [Task(pattern, dtype) for pattern in PATTERNS if not (per_block and ":" in pattern)]


@check(
    CRITERION,
    "after some steps it has a finite score for every weight or block, and has changed none",
    after=("builds", "defaults_kept"),
)
def scores(subject: Subject) -> None:
    """Train under every pattern and look at the scores."""
    missing = [name for name in METHODS if not callable(getattr(subject.build(), name, None))]
    if missing or not hasattr(subject.build(), "needs_gradients"):
        raise Finding(f"it has no {', '.join(missing) or 'needs_gradients'}; see kdcore.contracts.Criterion")
    for task in tasks(subject.build()):
        criterion, weights, gradients = _built(subject), task.draw(0), task.draw(1)
        for name, blocks in task.blocks.items():
            if criterion.needs_gradients:
                criterion.update(name, weights[name], gradients[name], blocks)
            _check_score(criterion, criterion.score(name, weights[name], blocks), name, blocks, task.pattern)
        for given, seed, what in ((weights, 0, "weight"), (gradients, 1, "gradient")):
            if not _equal(given, task.draw(seed)):
                raise Finding(f"it changed a {what} in place, which the model and the optimizer go on with")


def _check_score(criterion: Any, score: Any, name: str, blocks: Blocks, pattern: str) -> None:
    where = f"of a weight of shape {blocks.weight_shape} under pattern {pattern}"
    allowed = {blocks.shape} if flag_of(criterion, "per_block") else {blocks.shape, blocks.weight_shape}
    if not isinstance(score, Tensor) or tuple(score.shape) not in allowed:
        raise Finding(f"its score {where} is {shown(score)}; it must have shape {' or '.join(map(str, allowed))}")
    if blocks.needs_elements and tuple(score.shape) != blocks.weight_shape:
        raise Finding(f"its score {where} has one value per block; this pattern chooses within blocks: set per_block")
    if not bool(score.isfinite().all()):
        raise Finding(f"its score {where} is not finite")


@check(CRITERION, "needs_gradients and accumulates hold", after=("scores", "deterministic"))
def gradients_told(subject: Subject) -> None:
    """Compare the scores after different gradients, and after the last one alone."""
    for task in tasks(subject.build()):
        needs = subject.build().needs_gradients
        found = []
        for seeds in ((1, 2), (1, 3), (4, 2)):
            criterion = _built(subject)
            task.learn(criterion, seeds)
            found.append(task.scores(criterion))
        base, other_last, other_first = found
        if not needs and not (_equal(base, other_last) and _equal(base, other_first)):
            raise Finding("needs_gradients is False, so update is never called in training, but it changes the scores")
        if needs and _equal(base, other_last) and _equal(base, other_first):
            raise Finding(
                "needs_gradients is True, but the scores are the same whatever the gradients: set it to False"
            )
        if needs and not flag_of(subject.build(), "accumulates", True) and not _equal(base, other_first):
            raise Finding(
                "accumulates is False, so update is called only in steps that make masks, but earlier gradients change "
                "the scores: set it to True"
            )


@check(CRITERION, "saved and loaded into a fresh one it goes on to the same bits", after=("scores", "deterministic"))
def scores_continue(subject: Subject) -> None:
    """Train some steps, save, load, and compare the scores at once and after more steps."""
    for task in tasks(subject.build()):
        original = _built(subject)
        _learn(task, original, range(1, STEPS + 1))
        resumed = _built(subject)
        resumed.load_state_dict(reread(original.state_dict()))
        for steps in (0, STEPS):
            for each in (original, resumed):
                _learn(task, each, range(10, 10 + steps))
            if not _equal(task.scores(original), task.scores(resumed)):
                raise Finding(
                    f"after {STEPS} steps, saved and loaded into a fresh one, its scores {steps} steps later are "
                    "others: what it remembers is not in its state_dict"
                )


@check(CRITERION, "two criteria share no scores, nor do two weights of one", after=("scores", "deterministic"))
def criteria_apart(subject: Subject) -> None:
    """Train one and look at another; then show one weight more than the other."""
    for task in tasks(subject.build()):
        one, other = _built(subject), _built(subject)
        _learn(task, other, [1])
        before = task.scores(other)
        _learn(task, one, [2, 3])
        if not _equal(before, task.scores(other)):
            raise Finding("training one instance changed the scores of another: make what it keeps in the constructor")
        if not one.needs_gradients:
            continue
        name = next(iter(SHAPES))
        before = task.scores(one)
        one.update(name, task.draw(0)[name], task.draw(5)[name], task.blocks[name])
        after = task.scores(one)
        moved = [key for key in SHAPES if key != name and not torch.equal(before[key], after[key])]
        if moved:
            raise Finding(f"an update of {name} changed the scores of {moved[0]}: keep them by the weight's name")


@check(CRITERION, "what it keeps has the dtype that it was given", after=("scores",))
def scores_dtype(subject: Subject) -> None:
    """Train on float64 weights with float32 asked for, then with the weights' own."""
    for asked, expected in ((torch.float32, torch.float32), (None, torch.float64)):
        task = tasks(subject.build(), torch.float64)[0]
        criterion = _built(subject, asked)
        _learn(task, criterion, [1, 2])
        for kept in tensors(criterion.state_dict()):
            if kept.is_floating_point() and kept.dtype is not expected:
                raise Finding(
                    f"with dtype = {asked} and float64 weights it keeps {shown(kept)}, not {expected}: "
                    "kdcore.pruning.Buffers follows the attribute dtype"
                )


@uses(Kind.CRITERION)
def _used(subject: Subject, number: int) -> Found:
    found: Found = []
    for task in tasks(subject.build()):
        criterion = _built(subject)
        _learn(task, criterion, range(10 * number + 1, 10 * number + STEPS))
        found += [*task.scores(criterion).values(), *(each.clone() for each in tensors(criterion.state_dict()))]
    return found


def _built(subject: Subject, dtype: torch.dtype | None = torch.float32) -> Any:
    criterion = subject.build()
    criterion.dtype = dtype
    return criterion


def _learn(task: Task, criterion: Any, seeds: Iterable[int]) -> None:
    if criterion.needs_gradients:
        task.learn(criterion, seeds)


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())
