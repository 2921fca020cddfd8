"""One group at work: its criterion is fed, its masks are made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from kdcore.contracts import flag_of, method_of
from kdcore.errors import RunError, WiringError
from kdcore.pruning.config import PruningGroup
from kdcore.pruning.lasso import add_group_lasso
from kdcore.pruning.layers import Part, PrunedLayer
from kdcore.pruning.schedule import Schedule
from kdcore.pruning.selection import Limits, Stock, global_counts, local_counts, lowest


class LiveGroup:
    """The layers, the criterion and the schedule of one group.

    Arguments:
        config: the group as written.
        layers: chosen by it.
        criterion: built by its name and params.
        schedule: in steps.
        tell: takes what is to be said once.
    """

    def __init__(
        self,
        config: PruningGroup,
        layers: list[PrunedLayer],
        criterion: Any,
        schedule: Schedule,
        tell: Callable[[str], None],
    ) -> None:
        self.config = config
        self.layers = layers
        self.criterion = criterion
        self.schedule = schedule
        self.tell = tell
        self.initial: float | None = None
        # What a schedule that was changed under way had come to.
        self.least = 0.0
        self.learns = flag_of(criterion, "needs_gradients", True) and not config.locked
        self.each_step = flag_of(criterion, "accumulates", True)
        self.per_block = flag_of(criterion, "per_block")
        # Frozen masks are not rearranged: what is pruned stays so.
        self._rearrange = method_of(criterion, "rearrange") if config.masks == "recomputed" else None
        criterion.dtype = torch.float32 if config.dtype == "float32" else None
        self.stocks = [Stock(each.blocks, each.size, each.weights) for each in layers]
        # A criterion that scores blocks sees the weights that a head's output passes; its mask counts once.
        self._scored = [each.parts[-1:] if self.per_block else each.parts for each in layers]
        self._seen: set[str] = set()
        if self.per_block and layers[0].parts[0].blocks.needs_elements:
            raise WiringError(
                f"criterion {config.by!r} scores whole blocks, but {config.pattern} chooses weights within each",
                place=config.at("criterion"),
                repair="use snip_momentum, snip, magnitude or another criterion that scores weights",
            )
        _check_reachable(config, layers, self.stocks)

    def before_optimizer(self, step: int) -> bool:
        """Let the criterion see the gradients, and make masks if they are due; returns whether they were made."""
        if step > self.schedule.last:
            return False
        due = self.schedule.due(step)
        if self.learns and (due or self.each_step):
            self._update()
        if self.config.group_lasso:
            add_group_lasso(self.layers, self.config.group_lasso)
        if due:
            self._lock() if self.config.locked else self._make_masks(step)
        return due

    @torch.no_grad()
    def _update(self) -> None:
        missing = []
        for parts in self._scored:
            for part in parts:
                parameter = part.parameter
                gradient = parameter.grad
                if gradient is None:
                    missing.append(part.name)
                else:
                    self.criterion.update(part.name, parameter.detach(), gradient, part.blocks)
                    self._seen.add(part.name)
        if missing:
            self._say_missing(missing)

    def _say_missing(self, missing: list[str]) -> None:
        total = sum(map(len, self._scored))
        if len(missing) == total and not self._seen:
            raise RunError(
                f"pruning by {self.config.by!r} needs gradients, and none of the {total} weights has one",
                place=self.config.at("criterion"),
                repair="call backward() before before_optimizer(), and zero_grad() after the optimizer's step",
            )
        shown = ", ".join(missing[:3]) + (f", ... ({len(missing)} in all)" if len(missing) > 3 else "")
        self.tell(f"pruning by {self.config.by!r} passes over weights that have no gradient: {shown}")

    @torch.no_grad()
    def _make_masks(self, step: int) -> None:
        if self.initial is None:
            self.initial = min(_zeros(self.layers), self.config.target_sparsity)
        chosen = [
            index
            for index, parts in enumerate(self._scored)
            if not self.learns or all(part.name in self._seen for part in parts)
        ]
        if not chosen:
            raise RunError(
                f"pruning is due in step {step}, but no weight had a gradient so far", place=self.config.place
            )
        layers, stocks = [self.layers[index] for index in chosen], [self.stocks[index] for index in chosen]
        elements = [self._element_scores(index) for index in chosen]
        scores = _alike([self._block_scores(index, each) for index, each in zip(chosen, elements, strict=True)])
        sparsity = max(self.schedule.sparsity(step, self.initial), self.least)
        limits = Limits.of(
            stocks, sparsity, self.config.min_sparsity, self.config.most, final=step == self.schedule.last
        )
        if self.config.scope == "local":
            counts, threshold = local_counts(stocks, sparsity, limits), None
        else:
            counts, threshold = global_counts(scores, stocks, sparsity, limits)
        for layer, score, count, element in zip(layers, scores, counts, elements, strict=True):
            kept = ~lowest(score, count, threshold)
            if self._rearrange is not None and 0 < count < layer.blocks:
                part = layer.parts[-1]
                kept = self._rearrange(part.name, kept, part.blocks)
            _mask(layer, kept, count, element[0])

    def _element_scores(self, index: int) -> list[Tensor]:
        """Return what the criterion says of each part of a layer."""
        found = []
        for part in self._scored[index]:
            score = self.criterion.score(part.name, part.parameter.detach(), part.blocks)
            if score.shape not in (part.blocks.weight_shape, part.blocks.shape):
                raise RunError(
                    f"pruning criterion {self.config.by!r} returned scores of shape {tuple(score.shape)} for "
                    f"{part.name}; they must have the weight's, {part.blocks.weight_shape}, or one value per block, "
                    f"{part.blocks.shape}",
                    place=self.config.at("criterion"),
                )
            # The sum tells at once whether all are finite; one by one only where it might have overflowed.
            if not bool(score.sum().isfinite()) and not bool(score.isfinite().all()):
                raise RunError(
                    f"pruning criterion {self.config.by!r} gave scores that are not finite for {part.name}",
                    place=self.config.at("criterion"),
                    repair="look for losses or gradients that are not finite",
                )
            mask = part.mask if self.config.masks == "frozen" else None
            if mask is not None and score.shape == mask.shape:
                score = score.masked_fill(~mask, -math.inf)
            found.append(score)
        return found

    def _block_scores(self, index: int, elements: list[Tensor]) -> Tensor:
        """Return one score per block of a layer, by the group's `reduce` over all its weights."""
        layer = self.layers[index]
        score = _reduced(self._scored[index], elements, self.config.reduce)
        kept = layer.kept if self.config.masks == "frozen" else None
        return score if kept is None else score.masked_fill(~kept, -math.inf)

    @torch.no_grad()
    def _lock(self) -> None:
        """Keep the zeros that there are."""
        for layer in self.layers:
            kept = torch.ones(layer.block_shape, dtype=torch.bool, device=layer.parts[0].parameter.device)
            masked = 0
            for part in layer.parts:
                mask = part.parameter.detach() != 0
                masked += mask.numel() - int(mask.count_nonzero())
                part.mask = mask
            zero = _all_zero(layer)
            for part in layer.coupled:
                part.mask = part.blocks.mask(kept & ~zero)
            layer.masked = masked

    def state_dict(self) -> dict[str, Any]:
        """Return masks, scores and counters."""
        parts = [part for layer in self.layers for part in (*layer.parts, *layer.coupled)]
        return {
            "initial": self.initial,
            "masked": {layer.name: layer.masked for layer in self.layers},
            "masks": {part.name: mask for part in parts if (mask := part.mask) is not None},
            "seen": sorted(self._seen),
            "criterion": self.criterion.state_dict(),
            "schedule": asdict(self.schedule),
            "settings": self._settings(),
            "least": self.least,
        }

    def load_state_dict(self, state: Mapping[str, Any], step: int) -> None:
        """Go on from a state before a step; what is pruned stays so where the schedule is another since.

        Raises:
            RunError: it is of other layers, or of masks and scores with which this group cannot go on.
        """
        names = {layer.name for layer in self.layers}
        if set(state["masked"]) != names:
            other = sorted(set(state["masked"]) ^ names)
            raise RunError(
                f"the saved pruning state is of other layers: {', '.join(other[:5])}", place=self.config.place
            )
        self._check_settings(state.get("settings", self._settings()))
        self.initial = state["initial"]
        self._seen = set(state["seen"])
        for layer in self.layers:
            layer.masked = state["masked"][layer.name]
            for part in (*layer.parts, *layer.coupled):
                part.mask = state["masks"].get(part.name)
        self.criterion.load_state_dict(state["criterion"])
        self.least = state.get("least", 0.0)
        then = Schedule(**state["schedule"]) if "schedule" in state else self.schedule
        if then != self.schedule:
            self._reschedule(then, step)

    def _settings(self) -> dict[str, str]:
        """Return what masks and scores depend on."""
        return {"criterion": self.config.by, "pattern": str(self.config.pattern)}

    def _check_settings(self, then: Mapping[str, str]) -> None:
        for key, value in self._settings().items():
            if then[key] != value:
                raise RunError(
                    f"pruning has begun with {key} {then[key]}, and is now to go on with {value}, for which its masks "
                    "and scores mean nothing",
                    place=self.config.at(key),
                    repair=f"write {key}: {then[key]}, or start a new run or stage from the weights that there are",
                )

    def _reschedule(self, then: Schedule, step: int) -> None:
        """Go on by another schedule than `then`, from the sparsity that it has led to."""
        done = step > then.last and then.target == self.schedule.target
        if step > self.schedule.last and not done:
            raise RunError(
                f"by the schedule as it is now the last masks are made in step {self.schedule.last}, and pruning is at "
                f"step {step}: its target of {self.schedule.target:g} would never be reached",
                place=self.config.at("schedule"),
                repair="bring the schedule back, let it end later, or train more epochs",
            )
        found = sum(each.masked for each in self.layers) / sum(each.weights for each in self.layers)
        self.least = min(max(found, self.least), self.schedule.target)


def _mask(layer: PrunedLayer, kept: Tensor, count: int, elements: Tensor) -> None:
    """Set the masks of a layer, none where nothing is pruned."""
    layer.masked = count * layer.size
    for part in (*layer.parts, *layer.coupled):
        if not count:
            part.mask = None
        elif part.blocks.needs_elements:
            part.mask = part.blocks.mask(kept, elements)
        else:
            part.mask = part.blocks.mask(kept)


def _reduced(parts: list[Part], elements: list[Tensor], how: str) -> Tensor:
    """Return one score per block from those of all parts, each scored by weight or by block already."""
    if len(parts) == 1:
        (part,), (score,) = parts, elements
        return score if score.shape == part.blocks.shape != part.blocks.weight_shape else part.blocks.reduce(score)
    by_block = [score.shape == part.blocks.shape for part, score in zip(parts, elements, strict=True)]
    if how == "max":
        found = [
            score if done else part.blocks.amax(score)
            for part, score, done in zip(parts, elements, by_block, strict=True)
        ]
        return torch.stack(found).amax(0)
    found = [
        score if done else part.blocks.sum(score) for part, score, done in zip(parts, elements, by_block, strict=True)
    ]
    total = torch.stack(found).sum(0)
    sizes = sum(1 if done else part.blocks.size for part, done in zip(parts, by_block, strict=True))
    return total if how == "sum" else total / sizes


def _alike(scores: list[Tensor]) -> list[Tensor]:
    """Return scores in one dtype, so that a threshold means the same to all."""
    dtypes = {each.dtype for each in scores}
    return scores if len(dtypes) == 1 else [each.double() for each in scores]


def _all_zero(layer: PrunedLayer) -> Tensor:
    return torch.stack([part.blocks.zero(part.parameter.detach()) for part in layer.parts]).all(0)


def _zeros(layers: list[PrunedLayer]) -> float:
    """Return how sparse the layers are already, counting blocks with nothing left to prune."""
    zeros = sum(int(_all_zero(layer).sum()) * layer.size for layer in layers)
    return zeros / sum(layer.weights for layer in layers)


def _check_reachable(config: PruningGroup, layers: list[PrunedLayer], stocks: list[Stock]) -> None:
    """Raise WiringError where the limits per layer and the size of the blocks forbid the target."""
    if config.locked:
        return
    target, weights = config.target_sparsity, sum(each.weights for each in stocks)
    limits = Limits.of(stocks, target, config.min_sparsity, config.most, final=True)
    most = sum(high * each.size for high, each in zip(limits.high, stocks, strict=True))
    least = sum(low * each.size for low, each in zip(limits.low, stocks, strict=True))
    # Less than a block short is as near as whole blocks come.
    if most + max(each.size for each in stocks) <= target * weights:
        raise WiringError(
            f"target_sparsity {target:g} cannot be reached: with max_sparsity {config.most:g} and pattern "
            f"{config.pattern}, whole blocks of these layers come to {most / weights:.4g} at most",
            place=config.at("target_sparsity"),
            repair=f"lower target_sparsity to {math.floor(most / weights * 1000) / 1000:g}, raise max_sparsity, or "
            "choose a pattern with smaller blocks",
        )
    if least > target * weights * (1 + 1e-9):
        raise WiringError(
            f"min_sparsity {config.min_sparsity:g} of each layer comes, in whole blocks of pattern {config.pattern}, "
            f"to {least / weights:.4g} of all weights, above target_sparsity {target:g}",
            place=config.at("min_sparsity"),
            repair="lower min_sparsity or raise target_sparsity",
        )
