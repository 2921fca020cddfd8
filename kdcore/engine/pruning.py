"""Pruning in a stage: its pruner, built from the config, and what is told of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from kdcore.config.config import Config, PruningConfig, StageConfig
from kdcore.config.stages import INITIAL
from kdcore.engine.measure import SPARSITY, show
from kdcore.errors import KdcoreError, WiringError
from kdcore.pipeline.diagnosis import reason
from kdcore.pipeline.objective import Objective
from kdcore.pipeline.readable import not_readable, unreadable
from kdcore.pruning.config import PruningGroup
from kdcore.pruning.schedule import Schedule


class StagePruning:
    """The pruner of one stage.

    Arguments:
        config: the run.
        stage: which prunes.
        objective: whose models are pruned.
        batch: an example, which shows where the outputs of layers go.
        steps: optimizer steps in an epoch.

    Raises:
        WiringError: groups, models and length of the stage do not fit together.
    """

    def __init__(
        self, config: Config, stage: StageConfig, objective: Objective, batch: Mapping[str, Any], steps: int
    ) -> None:
        # Of use to stages that prune alone.
        from kdcore.pruning.pruner import Pruner

        self.stage = stage
        self.steps = steps
        self._told = 0
        self.pruner = Pruner(
            objective,
            [_group(each) for each in stage.pruning],
            total_steps=steps * (stage.epochs or 1),
            steps_per_epoch=steps,
            example_inputs=batch,
            place=config.place("stages", stage.index, "pruning"),
        )

    def check_readable(self) -> None:
        """Raise WiringError if a criterion keeps what no checkpoint could give back."""
        for each, state in zip(self.stage.pruning, self.pruner.state_dict()["groups"], strict=True):
            for where, found in unreadable(state["criterion"], "state_dict()"):
                raise not_readable(str(each.criterion.registered), where, found, each.criterion.place)

    @property
    def first_complete(self) -> int:
        """The epoch, counted from 1, that ends with the last masks."""
        total = self.steps * (self.stage.epochs or 1)
        last = max(Schedule.of(each.group, total, self.steps).last for each in self.stage.pruning)
        return last // self.steps + 1

    def remarks(self) -> list[str]:
        """Return what is told before the stage begins."""
        stage, told = self.stage, self.news()
        selected = [name for name, chosen in (("best", stage.best), ("early_stop", stage.early_stop)) if chosen]
        if selected and self.first_complete > 1:
            names = " and ".join(f"{name}:" for name in selected)
            told.append(f"epochs count for {names} from epoch {self.first_complete} on, when pruning is complete")
        return told

    def news(self) -> list[str]:
        """Return what the pruner has to say since this was last asked."""
        news = self.pruner.messages[self._told :]
        self._told += len(news)
        return news

    def metrics(self) -> dict[str, float]:
        """Return the share of pruned weights, of all layers together and of each, as an epoch's metrics."""
        found = self.pruner.sparsity()
        return {SPARSITY: found.total, **{f"{SPARSITY}/{name}": share for name, share in found.layers.items()}}

    def shortfall(self) -> str | None:
        """Return what to tell of a stage that has ended before its pruning was complete."""
        if self.pruner.completed:
            return None
        share = show(SPARSITY, self.pruner.sparsity().total)
        return f"pruning is not complete, {share} of the weights are zero: some of the stage's steps were skipped"

    def summary(self) -> dict[str, Any]:
        """Return what results.json says of the stage's pruning."""
        layers = {
            each.name: {"sparsity": each.sparsity, "weights": each.weights, "pattern": each.pattern}
            for each in self.pruner.layers
        }
        return {"sparsity": self.pruner.sparsity().total, "completed": self.pruner.completed, "layers": layers}

    def add_to(self, rows: Sequence[dict[str, Any]], models: Mapping[str, nn.Module]) -> None:
        """Add to the rows of pruned models how much of their pruned layers is zero, and what is left of all."""
        groups = self.pruner.groups
        for row in rows:
            layers = [each for each in self.pruner.layers if groups[each.group].model == row["model"]]
            weights = sum(each.weights for each in layers)
            if weights:
                row["sparsity"] = sum(each.sparsity * each.weights for each in layers) / weights
                parameters = models[row["model"]].parameters()
                row["nonzero_parameters"] = sum(int(each.count_nonzero()) for each in parameters)


def reviving(config: Config, stage: StageConfig) -> Iterator[str]:
    """Yield what to tell of models that an earlier stage pruned, and that this one trains as if it had not."""
    kept = {each.model for each in stage.pruning}
    for name, earlier in _pruned_before(config, stage).items():
        if name in stage.train and name not in kept:
            yield (
                f"{name!r} was pruned in stage {earlier}, and this stage trains it without pruning: its zeros do not "
                "last; write pruning: {schedule: locked} to keep them"
            )


def _pruned_before(config: Config, stage: StageConfig) -> dict[str, str]:
    """Return the models that begin a stage with zeros, and which stage made them."""
    now: dict[str, str] = {}
    ends: dict[str, dict[str, str]] = {INITIAL: {}}
    for each in config.stages[: stage.index + 1]:
        for name, start in each.start.items():
            earlier = ends[start.stage].get(start.model)
            now = {key: value for key, value in now.items() if key != name} | ({name: earlier} if earlier else {})
        if each.index == stage.index:
            break
        now = {key: value for key, value in now.items() if key not in each.train}
        now |= {pruned.model: each.name for pruned in each.pruning}
        ends[each.name] = now
    return now


def _group(config: PruningConfig) -> PruningGroup:
    """Return a group with a criterion of its own, which keeps the scores of one stage."""
    part = config.criterion
    try:
        return replace(config.group, criterion=part.build(), params={}, title=part.registered.name)
    except KdcoreError as error:
        raise error.at(part.place) from error
    except Exception as error:  # a factory may fail in any way; the cause is chained and named
        raise WiringError(f"{part.registered} could not be built: {reason(error)}", place=part.place) from error
