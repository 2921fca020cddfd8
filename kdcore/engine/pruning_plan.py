"""What a stage would prune, layer by layer, as a dry run shows it."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, JustifyMethod
from rich.table import Table

from kdcore.config.config import PruningConfig
from kdcore.engine.measure import SPARSITY, show
from kdcore.engine.pruning import StagePruning
from kdcore.pruning.config import PruningGroup
from kdcore.pruning.schedule import Schedule


@dataclass(frozen=True)
class PlannedLayer:
    """A layer that would be pruned: how its weights are grouped, and how sparse it may be in the end."""

    name: str
    shape: tuple[int, ...]
    pattern: str
    blocks: int
    sparsity: str
    coupled: tuple[str, ...] = ()


@dataclass(frozen=True)
class PruningPlan:
    """The layers that a stage prunes, those that it leaves and why, and when it prunes."""

    groups: tuple[str, ...]
    layers: tuple[PlannedLayer, ...]
    skipped: tuple[tuple[str, str], ...]
    messages: tuple[str, ...]

    @classmethod
    def of(cls, pruning: StagePruning) -> PruningPlan:
        """Describe what a stage's pruner would do."""
        pruner = pruning.pruner
        layers = [
            PlannedLayer(
                each.name,
                each.shape,
                each.pattern,
                each.blocks,
                _range(pruner.groups[each.group]),
                tuple(part.name for part in each.coupled),
            )
            for each in pruner.layers
        ]
        weights = [
            sum(each.weights for each in pruner.layers if each.group == index) for index in range(len(pruner.groups))
        ]
        told = [_told(each, count, pruning) for each, count in zip(pruning.stage.pruning, weights, strict=True)]
        return cls(tuple(told), tuple(layers), tuple(pruner.skipped), tuple(pruning.remarks()))

    def show(self, console: Console) -> None:
        """Print the plan."""
        for text in self.groups:
            console.print(text, markup=False, highlight=False)
        table = Table(header_style="bold")
        for heading in ("pruned layer", "shape", "pattern", "blocks", "in the end", "with it"):
            side: JustifyMethod = "right" if heading in ("blocks", "in the end") else "left"
            table.add_column(heading, justify=side, overflow="fold")
        for each in self.layers:
            shape = " x ".join(map(str, each.shape))
            table.add_row(each.name, shape, each.pattern, f"{each.blocks:,}", each.sparsity, ", ".join(each.coupled))
        console.print(table)
        for name, why in self.skipped:
            console.print(f"not pruned: {name}, {why}", markup=False, highlight=False)
        for text in self.messages:
            console.print(text, markup=False, highlight=False)


def _range(group: PruningGroup) -> str:
    """Return how sparse a layer of the group is in the end: known beforehand where each has a share of its own."""
    if group.locked:
        return "as it is"
    if group.scope == "local":
        return show(SPARSITY, min(group.target_sparsity, group.most), 0)
    return f"{show(SPARSITY, group.min_sparsity, 0)} to {show(SPARSITY, group.most, 0)}"


def _told(config: PruningConfig, weights: int, pruning: StagePruning) -> str:
    group, name = config.group, config.criterion.registered.name
    total = pruning.steps * (pruning.stage.epochs or 1)
    schedule = Schedule.of(group, total, pruning.steps)
    if group.locked:
        return f"keeps the zeros of {weights:,} weights of {group.model}"
    target = show(SPARSITY, group.target_sparsity, 1)
    told = f"prunes {target} of {weights:,} weights of {group.model} by {name}, {group.scope}: "
    if schedule.count == 0:
        return told + f"in step {schedule.start} of {total}"
    return told + (
        f"{schedule.kind}, {schedule.count + 1} times from step {schedule.start} to {schedule.last} of {total}"
    )
