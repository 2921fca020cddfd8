"""Metrics as exact sums and counts, read once per epoch.

They are kept here rather than taken from a library because they run in every training step: hits
are only appended, and reduced a few times per epoch, so a step never waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdcore.config.config import MetricsConfig
from kdcore.config.stages import metric_name
from kdcore.errors import DataError, WiringError

_DRAIN_EVERY = 64


class Hits(NamedTuple):
    """Which of a batch's highest outputs are right, highest first in the last dimension, and its labels."""

    right: Tensor
    target: Tensor


class Judge:
    """Accuracy and top-k of one model's outputs against the labels, with hits by class on demand."""

    def __init__(self, config: MetricsConfig, rows_per_sample: int = 1, *, by_class: bool = False) -> None:
        self.config = config
        self.rows_per_sample = rows_per_sample
        self.by_class = by_class
        self.num_classes = 0
        self._pending: list[Hits] = []
        self._hits = dict.fromkeys((metric_name(kind) for kind in config.kinds), 0)
        self._count = 0
        self._class_hits = torch.zeros(0, dtype=torch.int64)
        self._class_counts = torch.zeros(0, dtype=torch.int64)
        self._depth = max(int(kind["k"]) if kind["type"] == "top_k" else 1 for kind in config.kinds)

    @property
    def seen(self) -> bool:
        """Whether anything was judged."""
        return bool(self._pending) or self._count > 0

    def add(self, output: Tensor, target: Tensor) -> None:
        """Judge one batch: `output` has the classes in `class_dim`, `target` the labels."""
        self.count(self.look(output, target))

    def look(self, output: Tensor, target: Tensor) -> Hits:
        """Compare one batch with its labels, without counting it yet."""
        if self.rows_per_sample > 1:
            target = target[:: self.rows_per_sample] if len(target) == len(output) else target
            output = output[:: self.rows_per_sample]
        # As a causal language model's loss: what is said at t is about t + shift.
        if self.config.shift and target.dim() > 1:
            output, target = output[:, : -self.config.shift], target[:, self.config.shift :]
        dim = self.config.class_dim
        if self._depth == 1:
            ranked = output.argmax(dim).unsqueeze(-1)
        else:
            depth = min(self._depth, output.shape[dim])
            ranked = output.movedim(dim, -1).topk(depth, dim=-1).indices
        self.num_classes = output.shape[dim]
        return Hits(ranked == target.unsqueeze(-1), target)

    def count(self, hits: Hits) -> None:
        """Let a batch count."""
        self._pending.append(hits)
        if len(self._pending) >= _DRAIN_EVERY:
            self._drain()

    def compute(self) -> dict[str, float]:
        """Return the metrics so far, as fractions of the positions whose label counts."""
        self._drain()
        return {name: hits / self._count if self._count else 0.0 for name, hits in self._hits.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the counts so far."""
        self._drain()
        classes = {"class_hits": self._class_hits, "class_counts": self._class_counts}
        return {"hits": dict(self._hits), "count": self._count, **classes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, or begin to count where other metrics are counted by now."""
        if state["hits"].keys() != self._hits.keys():
            return
        self._hits, self._count = dict(state["hits"]), state["count"]
        self._class_hits, self._class_counts = state["class_hits"], state["class_counts"]

    def merged(self, gather: Callable[[Any], list[Any]]) -> Judge:
        """Return what the judges of all processes have counted together; `gather` returns what each has."""
        states = gather(self.state_dict())
        if len(states) == 1:
            return self
        whole = Judge(self.config, self.rows_per_sample, by_class=self.by_class)
        whole._count = sum(state["count"] for state in states)
        whole._hits = {name: sum(state["hits"][name] for state in states) for name in self._hits}
        whole._class_hits = _summed([state["class_hits"] for state in states])
        whole._class_counts = _summed([state["class_counts"] for state in states])
        return whole

    def per_class(self) -> tuple[list[float | None], list[int]]:
        """Return accuracy and count by class; a class without samples has no accuracy."""
        self._drain()
        hits, counts = self._class_hits.tolist(), self._class_counts.tolist()
        return [hit / count if count else None for hit, count in zip(hits, counts, strict=True)], counts

    def _drain(self) -> None:
        if not self._pending:
            return
        hits = torch.cat([hit.reshape(-1, hit.shape[-1]) for hit, _ in self._pending])
        target = torch.cat([target.reshape(-1) for _, target in self._pending])
        self._pending.clear()
        valid = target != self.config.ignore_index
        hits, target = hits[valid], target[valid]
        self._check_range(target)
        self._count += len(target)
        for kind in self.config.kinds:
            depth = int(kind["k"]) if kind["type"] == "top_k" else 1
            self._hits[metric_name(kind)] += int(hits[:, :depth].any(-1).sum())
        if self.by_class and len(target):
            self._count_classes(hits[:, 0], target)

    def _check_range(self, target: Tensor) -> None:
        low, high = (int(each) for each in target.aminmax()) if len(target) else (0, 0)
        if low < 0 or high >= self.num_classes:
            raise DataError(
                f"{self.config.target} holds labels from {low} to {high}, but there are {self.num_classes} outputs, "
                f"for labels from 0 to {self.num_classes - 1}",
                repair="mend the labels, or name the one that does not count: metrics: {ignore_index: ...}",
            )

    def _count_classes(self, hit: Tensor, target: Tensor) -> None:
        size = max(int(target.max()) + 1, self.num_classes, len(self._class_counts))
        counts = torch.bincount(target, minlength=size).cpu()
        hits = torch.bincount(target[hit], minlength=size).cpu()
        grown = size - len(self._class_counts)
        self._class_counts = torch.nn.functional.pad(self._class_counts, (0, grown)) + counts
        self._class_hits = torch.nn.functional.pad(self._class_hits, (0, grown)) + hits


def _summed(counts: Sequence[Tensor]) -> Tensor:
    """Return the sum of counts by class; a process that saw fewer classes has fewer entries."""
    size = max(len(each) for each in counts)
    padded = [torch.nn.functional.pad(each, (0, size - len(each))) for each in counts]
    return torch.stack(padded).sum(0)


def check_judgeable(model: str, output: Any, target: Any, config: MetricsConfig, num_classes: int | None) -> str | None:
    """Return why a model's output cannot be judged against the labels, or None if it can.

    Raises:
        WiringError: if it looks judgeable, but the model has fewer outputs than the data has classes.
    """
    if not isinstance(target, Tensor) or target.is_floating_point():
        return f"{config.target} holds no class labels"
    if not isinstance(output, Tensor) or output.dim() < 2:
        return f"the output of {model!r} is not one tensor with a class dimension"
    dim = config.class_dim % output.dim()
    if (*output.shape[:dim], *output.shape[dim + 1 :])[1:] != tuple(target.shape[1:]):
        return f"{model!r} yields {list(output.shape)} and {config.target} {list(target.shape)}"
    if num_classes is not None and output.shape[dim] < num_classes:
        raise WiringError(
            f"{model!r} has {output.shape[dim]} outputs, but the data set has {num_classes} classes",
            repair="build the model with as many classes as the data has",
        )
    too_deep = [kind["k"] for kind in config.kinds if kind["type"] == "top_k" and kind["k"] >= output.shape[dim]]
    return f"top_{too_deep[0]} is always right, for it has {output.shape[dim]} outputs" if too_deep else None


def metric_values(split: str, means: Mapping[str, float], judges: Mapping[str, Judge]) -> dict[str, float]:
    """Return the metrics of a split under their full names."""
    found = {f"{split}/losses/{name}" if name else f"{split}/loss": value for name, value in means.items()}
    for model, judge in judges.items():
        found.update({f"{split}/{model}/{name}": value for name, value in judge.compute().items()})
    return found
