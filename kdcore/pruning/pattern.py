"""What a pattern's name means: which weights are pruned together. Torch-free."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from kdcore.errors import suggestion

CHANNEL_X1 = "channelx1"
ONE_X_CHANNEL = "1xchannel"
FILTER = "filter"
INPUT_CHANNEL = "input_channel"
HEAD = "head"
NAMED = (CHANNEL_X1, ONE_X_CHANNEL, FILTER, INPUT_CHANNEL, HEAD)
# What leaves whole rows, columns or heads without a weight, so that a smaller model can do without them.
REMOVABLE = (FILTER, INPUT_CHANNEL, HEAD)


class PatternError(ValueError):
    """A pattern that cannot be read."""


@dataclass(frozen=True)
class Pattern:
    """A pattern as written.

    Arguments:
        name: as written, such as `4x1`, `2:4` or `filter`.
        rows: of an `NxM` pattern, the N outputs of a block; 0 for other patterns.
        columns: of an `NxM` pattern, the M inputs of a block; 0 for other patterns.
        pruned: of an `N:M` pattern, how many of each group go; 0 for other patterns.
        group: of an `N:M` pattern, the M consecutive inputs of a group; 0 for other patterns.
    """

    name: str
    rows: int = 0
    columns: int = 0
    pruned: int = 0
    group: int = 0

    @classmethod
    def parse(cls, name: object) -> Self:
        """Read a pattern's name; raises PatternError with what is allowed."""
        text = str(name).strip()
        if text in NAMED:
            return cls(text)
        numbers = re.fullmatch(r"(\d+)([x:])(\d+)", text)
        if numbers is None:
            known = [*NAMED, "4x1", "1x1", "8x8", "2:4"]
            raise PatternError(
                f"unknown pattern {text!r}; {suggestion(text, known, noun='patterns')} "
                "(NxM, N:M, 1xchannel, channelx1, filter, input_channel or head)"
            )
        first, second = int(numbers[1]), int(numbers[3])
        if first < 1 or second < 1:
            raise PatternError(f"pattern {text!r}: both numbers must be at least 1")
        if numbers[2] == "x":
            return cls(text, rows=first, columns=second)
        if first >= second:
            raise PatternError(
                f"pattern {text!r}: of each {second} weights {first} would go; N:M prunes N of every M, "
                "so N must be less than M"
            )
        return cls(text, pruned=first, group=second)

    @property
    def within_groups(self) -> bool:
        """Whether it is an `N:M` pattern, where each group of M keeps M - N weights."""
        return self.group > 0

    @property
    def most(self) -> float:
        """The highest sparsity that it can reach: N/M for `N:M`."""
        return self.pruned / self.group if self.group else 1.0

    def __str__(self) -> str:
        return self.name
