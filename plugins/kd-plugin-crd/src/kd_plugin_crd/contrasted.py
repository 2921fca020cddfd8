"""A data set whose samples name those that they are contrasted with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from kd_plugin_crd.checks import SAMPLINGS, whole_labels
from kd_plugin_crd.negatives import Negatives
from kdcore import create
from kdcore.errors import DataError

# What a data set may say about itself.
SAID = ("targets", "num_classes", "class_names", "batches")
POSITIVES = ("sample", "class")
ENTRY = "contrast_index"


class Contrasted(Dataset[dict[str, Any]]):
    """Another data set, with a `contrast_index` (K + 1,) for each sample: its positive, then K negatives.

    Samples and their order are those of the other data set, whose `collate` is used where it has one. Negatives are
    drawn uniformly and without replacement, from torch's global generator: in a run they follow from seed,
    epoch and index, in any worker. Tian, Krishnan, Isola: Contrastive Representation Distillation, 2020, section 3.1.

    Arguments:
        dataset: the data set's name, or `{"type": name, "params": {...}}`.
        num_negatives: K, 1 or more.
        sampling: `exact` draws negatives outside the sample's class, `relax` anywhere but the sample itself.
        positive: `sample`, or `class` for any sample of its class.

    Attributes:
        random: true. What models are fed is as steady as the other data set makes it.
        targets, num_classes, class_names: those of the other data set.

    Raises DataError where classes are needed and not known, where there are fewer negatives than K, and for several
    rows per sample.
    """

    random = True
    rows_per_sample = 1

    def __init__(
        self,
        dataset: str | Mapping[str, Any],
        num_negatives: int = 16384,
        sampling: str = "exact",
        positive: str = "sample",
    ) -> None:
        part: Mapping[str, Any] = {"type": dataset} if isinstance(dataset, str) else dataset
        for name, value, allowed in (("sampling", sampling, SAMPLINGS), ("positive", positive, POSITIVES)):
            if value not in allowed:
                raise DataError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
        self.num_negatives = num_negatives
        self.sampling = sampling
        self.positive = positive
        self.dataset = create("dataset", part["type"], **part.get("params", {}))
        if getattr(self.dataset, "rows_per_sample", 1) != 1:
            raise DataError(
                f"{part['type']} has several rows per sample, which have one contrast_index",
                repair=f"put contrasted inside: type: {part['type']}, params: {{dataset: {{type: contrasted, ...}}}}",
            )
        for name in SAID:
            if hasattr(self.dataset, name):
                setattr(self, name, getattr(self.dataset, name))
        self.negatives, self.classes = self._sources(part["type"])
        self._scratch: Tensor | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.dataset[index]
        if ENTRY in sample:
            raise DataError(f"its samples have an entry {ENTRY!r} already", repair="leave contrasted out")
        first = self.classes.draw_positive(index) if self.classes is not None else index
        return {**sample, ENTRY: torch.cat([torch.tensor([first]), self._drawn(index)])}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch of the samples, with `contrast_index` (B, K + 1)."""
        own = [{key: value for key, value in sample.items() if key != ENTRY} for sample in samples]
        batch = (getattr(self.dataset, "collate", None) or default_collate)(own)
        return {**batch, ENTRY: torch.stack([sample[ENTRY] for sample in samples])}

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs, which makes scratch space of its own."""
        return {**self.__dict__, "_scratch": None}

    def _drawn(self, index: int) -> Tensor:
        if self._scratch is None:
            self._scratch = self.negatives.scratch(self.num_negatives)
        return self.negatives.draw(torch.tensor([index]), self.num_negatives, scratch=self._scratch)[0]

    def _sources(self, name: str) -> tuple[Negatives, Negatives | None]:
        """Return where negatives come from, and where positives do if they are others than the sample."""
        targets = None
        if self.sampling == "exact" or self.positive == "class":
            targets = self._labels(name)
        classes = Negatives(len(self), targets) if targets is not None else None
        negatives = classes if classes is not None and self.sampling == "exact" else Negatives(len(self))
        if not 1 <= self.num_negatives <= negatives.fewest:
            left_out = "the sample itself" if negatives.order is None else f"those of class {negatives.largest_class}"
            raise DataError(
                f"num_negatives is {self.num_negatives}, but of the {len(self)} samples of {name} only "
                f"{negatives.fewest} are left without {left_out}",
                repair=f"give a number from 1 to {negatives.fewest}"
                + (", or sampling: relax" if negatives.fewest < self.num_negatives < len(self) else ""),
            )
        return negatives, classes if self.positive == "class" else None

    def _labels(self, name: str) -> Tensor:
        targets = getattr(self.dataset, "targets", None)
        if targets is None:
            raise DataError(
                f"{name} has no `targets`, so classes cannot be told apart",
                repair="give that data set the attribute, or write sampling: relax and positive: sample",
            )
        try:
            return whole_labels(targets, len(self))
        except ValueError as error:
            raise DataError(f"{name}: {error}", repair="otherwise write sampling: relax") from error
