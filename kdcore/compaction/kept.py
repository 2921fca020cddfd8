"""What must stay of every tensor: per dimension, the indices that anything needed depends on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import torch
from torch import Tensor

from kdcore.compaction.operations import any_but
from kdcore.compaction.program import Program, Slot, Step


class Kept:
    """Grows from nothing to the least that the outputs need; whatever is not kept may go.

    A tensor keeps a rectangle: the indices kept of each dimension. Whatever changes a tensor wakes the steps that read
    or write it, until nothing changes any more.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._dims: dict[Slot, list[Tensor]] = {
            slot: [torch.zeros(size, dtype=torch.bool) for size in value.shape]
            for slot, value in program.values.items()
        }
        self._users: dict[Slot, list[Step]] = {}
        for step in program.steps:
            for slot in {*program.read_by(step), *program.written_by(step)}:
                self._users.setdefault(slot, []).append(step)
        self._waiting: deque[Step] = deque()
        self._queued: set[int] = set()

    def of(self, slot: Slot) -> list[Tensor]:
        """Return what is kept, a mask per dimension."""
        return self._dims[slot]

    def reached(self, slot: Slot) -> bool:
        """Whether anything of a tensor is kept."""
        return all(bool(each.any()) for each in self._dims[slot])

    def changed(self, slot: Slot) -> bool:
        """Whether something of a tensor may go."""
        return any(not each.all() for each in self._dims[slot])

    def users(self, slot: Slot) -> list[Step]:
        """Return the steps that read or write a tensor."""
        return self._users.get(slot, [])

    def keep(self, slot: Slot, dim: int, indices: Tensor | None = None) -> None:
        """Keep indices of a dimension, or all of them."""
        dims = self._dims[slot]
        held = dims[dim]
        new = torch.ones_like(held) if indices is None else held | indices
        if torch.equal(new, held):
            return
        dims[dim] = new
        for step in self._users.get(slot, []):
            self.wake(step)

    def keep_all(self, slot: Slot) -> None:
        """Keep a tensor as it is."""
        for dim in range(len(self._dims[slot])):
            self.keep(slot, dim)

    def tie(self, one: tuple[Slot, int], other: tuple[Slot, int]) -> None:
        """Keep the same indices of two dimensions of one length."""
        self.keep(*one, self._dims[other[0]][other[1]])
        self.keep(*other, self._dims[one[0]][one[1]])

    def wake(self, step: Step) -> None:
        """See to a step again."""
        if id(step) not in self._queued:
            self._queued.add(id(step))
            self._waiting.append(step)

    def wake_all(self, steps: Iterable[Step]) -> None:
        """See to steps again, the last first: needs come from the outputs."""
        for step in reversed(list(steps)):
            self.wake(step)

    @property
    def waiting(self) -> bool:
        """Whether some step has not been seen to since something changed."""
        return bool(self._waiting)

    def next(self) -> Step | None:
        """Return a step that something has changed for."""
        if not self._waiting:
            return None
        step = self._waiting.popleft()
        self._queued.discard(id(step))
        return step

    def box(self, slot: Slot) -> Tensor:
        """Return a mask of the elements that are kept."""
        dims = self._dims[slot]
        box = torch.ones([1] * len(dims), dtype=torch.bool)
        for dim, mask in enumerate(dims):
            box = box & mask.view([-1 if each == dim else 1 for each in range(len(dims))])
        return box

    def keep_box(self, slot: Slot, elements: Tensor) -> None:
        """Keep the smallest rectangle that holds the elements."""
        for dim in range(elements.dim()):
            self.keep(slot, dim, any_but(elements, dim))
