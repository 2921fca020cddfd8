"""What the LightningModules of both packages, lightning and pytorch_lightning, have in common."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.errors import WiringError
from kdcore.integrations.means import TermMeans
from kdcore.pipeline.objective import Objective
from kdcore.pipeline.step_counts import StepCounts, batch_rows

MakeOptimizer = Callable[[list[nn.Parameter]], Any]


class Distillation:
    """The steps and logs of an Objective; stands before LightningModule among a class's bases."""

    # What LightningModule brings.
    trainer: Any
    device: Any
    current_epoch: Any
    log_dict: Any

    def __init__(self, objective: Objective, optimizer: MakeOptimizer | None = None) -> None:
        super().__init__()
        self.objective = objective
        self.make_optimizer = optimizer
        self._means: dict[int, TermMeans] = {}

    def forward(self, batch: Mapping[str, Any]) -> Any:
        """Return the Objective's total and terms."""
        return self.objective(batch)

    def on_fit_start(self) -> None:
        """Raise WiringError if a frozen model is not the same in every process."""
        self.objective.check_agreement()

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Return the total of a batch, and log it and the terms."""
        processes = self.trainer.world_size
        share = None
        if processes > 1:
            across = partial(self.trainer.strategy.reduce, reduce_op="sum")
            share = StepCounts.of(self.objective, [batch], across=across).share(batch)
        out = self.objective(batch, share)
        if self.trainer.accumulate_grad_batches > 1 and self.objective.counts:
            raise _uneven(list(self.objective.counts), self.trainer.accumulate_grad_batches)
        figures = {"train/loss": out.total.detach(), **{f"train/{name}": value for name, value in out.terms.items()}}
        self.log_dict(figures, batch_size=batch_rows(batch))
        total: Tensor = out.total
        return total

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Evaluate a batch."""
        self._evaluate(batch, dataloader_idx)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Evaluate a batch."""
        self._evaluate(batch, dataloader_idx)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Tell components that follow the training how far it has come."""
        total = self.trainer.estimated_stepping_batches
        steps = sys.maxsize if math.isinf(total) else int(total)
        self.objective.progress(self.trainer.global_step, steps, self.current_epoch)

    def on_validation_epoch_start(self) -> None:
        """Forget what an interrupted evaluation left."""
        self._means = {}

    def on_test_epoch_start(self) -> None:
        """Forget what an interrupted evaluation left."""
        self._means = {}

    def on_validation_epoch_end(self) -> None:
        """Log the means over the validation data."""
        self._log_means("val")

    def on_test_epoch_end(self) -> None:
        """Log the means over the test data."""
        self._log_means("test")

    def configure_optimizers(self) -> Any:
        """Return what the given function makes of the trainable parameters."""
        if self.make_optimizer is None:
            raise WiringError(
                "DistillationModule has no optimizer",
                repair="pass optimizer=lambda parameters: torch.optim.AdamW(parameters)",
            )
        return self.make_optimizer([parameter for _, parameter in self.objective.named_trainable()])

    def export_student(self, name: str = "student") -> nn.Module:
        """Return a plain copy of a model: its own class, without hooks, adapters or teacher."""
        return self.objective.export_student(name)

    def _evaluate(self, batch: Mapping[str, Any], loader: int) -> None:
        out = self.objective(batch)
        self._means.setdefault(loader, TermMeans()).add(out.terms, batch_rows(batch), self.objective.counts)

    def _log_means(self, split: str) -> None:
        several_processes = self.trainer.world_size > 1
        across = partial(self.trainer.strategy.reduce, reduce_op="sum") if several_processes else None
        several = len(self._means) > 1
        for loader, means in sorted(self._means.items()):
            terms = {name: torch.tensor(value, device=self.device) for name, value in means.compute(across).items()}
            figures = {"loss": self.objective.balance(terms), **terms}
            suffix = f"/dataloader_idx_{loader}" if several else ""
            named = {f"{split}/{name}{suffix}": value for name, value in figures.items()}
            # They are the same in all processes already; without sync_dist Lightning would warn.
            self.log_dict(named, add_dataloader_idx=False, sync_dist=several_processes)


def _uneven(terms: Iterable[str], batches: int) -> WiringError:
    return WiringError(
        f"accumulate_grad_batches={batches} averages batches, but {', '.join(map(repr, terms))} "
        "are means over uneven numbers of positions: the gradient would not be that of one big batch",
        repair="accumulate with DistillationTrainer, kd run or a loop of your own with kdcore.StepCounts; "
        "or choose reduction: mean, for means of each batch",
    )
