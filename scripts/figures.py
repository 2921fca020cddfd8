"""Fill in the figures that READMEs and pages quote from docs/methods.json, so that they say what its table says.

A figure stands between `<!-- figure: METHOD WHAT -->` and `<!-- /figure -->`, which readers do not see; WHAT is one of
FIGURES. Run by `make generate`; a test says when a page is out of date.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docs_methods import paired, spread
from methods_table import ALONE, BASELINE, TEACHER, read

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"(<!-- figure: (\w+) (\w+) -->).*?(<!-- /figure -->)", re.DOTALL)


@dataclass(frozen=True)
class Measured:
    """What a method came to, over the seeds that have both its accuracy and that of the student alone."""

    pairs: Sequence[tuple[float, float]]
    teacher: Sequence[float]

    @property
    def alone(self) -> str:
        """The student alone."""
        return spread([alone for alone, _ in self.pairs]) + " %"

    @property
    def method(self) -> str:
        """The student with the method."""
        return spread([method for _, method in self.pairs]) + " %"

    @property
    def gains(self) -> list[float]:
        """The difference of each seed."""
        return [method - alone for alone, method in self.pairs]

    @property
    def range(self) -> str:
        """In how many seeds it helped, and the least and largest difference."""
        better = sum(gain > 0 for gain in self.gains)
        least, most = (f"{100 * gain:.1f}" for gain in (min(self.gains), max(self.gains)))
        return f"{better} of {len(self.gains)} seeds, and the difference is from {least} to {most} points"

    @property
    def sentence(self) -> str:
        """What a README says of it."""
        gain = spread(self.gains, signed=True)
        return (
            f"test accuracy, mean and standard deviation over {len(self.pairs)} seeds: the student alone {self.alone}, "
            f"with the method {self.method}; seed by seed a difference of {gain} points"
        )


FIGURES: Mapping[str, Callable[[Measured], str]] = {
    "alone": lambda found: found.alone,
    "method": lambda found: found.method,
    "range": lambda found: found.range,
    "sentence": lambda found: found.sentence,
    "teacher": lambda found: spread(found.teacher) + " %",
}


def pages(root: Path = ROOT) -> Iterator[Path]:
    """Yield the files that may quote figures."""
    yield root / "README.md"
    yield root / "docs" / "results.md"
    yield from sorted((root / "plugins").glob("*/README.md"))


def filled(text: str, measured: Mapping[str, Any]) -> str:
    """Return a page with every figure in it as it was measured; raises ValueError for one that was not."""
    baseline = {seed: found[ALONE] for seed, found in measured[BASELINE]["seeds"].items()}

    def fill(mark: re.Match[str]) -> str:
        start, name, what, end = mark.groups()
        if what not in FIGURES or name not in measured:
            raise ValueError(f"{start}: no such figure; there are {', '.join(FIGURES)} of what docs/methods.json holds")
        seeds = measured[name]["seeds"]
        teacher = [found[TEACHER] for found in seeds.values() if TEACHER in found]
        if what == TEACHER and not teacher:
            raise ValueError(f"{start}: the example of {name} trains no teacher")
        return start + FIGURES[what](Measured(paired(seeds, baseline), teacher)) + end

    return MARKED.sub(fill, text)


if __name__ == "__main__":
    accuracies = read()
    for page in pages():
        page.write_text(filled(page.read_text(encoding="utf-8"), accuracies), encoding="utf-8")
