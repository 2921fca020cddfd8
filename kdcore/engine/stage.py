"""One stage of a run: wire it, train it, keep the best, judge the result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from kdcore.address import Address
from kdcore.config.config import Config, StageConfig
from kdcore.config.stages import INITIAL, metric_name
from kdcore.engine.checkpoint import load_checkpoint, save_checkpoint, save_tensors
from kdcore.engine.cost import count_parameters, measure_latency
from kdcore.engine.data import Datasets
from kdcore.engine.device import to_device
from kdcore.engine.folder import RunFolder
from kdcore.engine.judged import find_judged, read_whole
from kdcore.engine.metrics import Judge, metric_values
from kdcore.engine.progress import Progress
from kdcore.engine.selection import Selection
from kdcore.engine.trainer import Trainer, check_accumulation, evaluate, make_optimizer
from kdcore.errors import RunError
from kdcore.pipeline.assembly import Assembly
from kdcore.pipeline.build import data_facts
from kdcore.pipeline.objective import Objective
from kdcore.pipeline.randomness import derive_seed, forked_generators, seed_everything
from kdcore.pipeline.weights import load_state
from kdcore.pipeline.wire import Wiring, wire


@dataclass
class StageResult:
    """What results.json says about a stage."""

    summary: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class EpochRecord:
    """One epoch as it is written down."""

    stage: StageConfig
    epoch: int
    step: int
    seconds: float
    lr: list[float]
    metrics: dict[str, float]

    def as_line(self) -> dict[str, Any]:
        """Return the line of metrics.jsonl."""
        return {
            "stage": self.stage.name,
            "stage_index": self.stage.index,
            "epoch": self.epoch,
            "epochs": self.stage.epochs,
            "step": self.step,
            "seconds": round(self.seconds, 4),
            "lr": self.lr,
            "metrics": self.metrics,
        }


class StageLoaders:
    """The loaders of a stage, by role."""

    def __init__(self, config: Config, stage: StageConfig, datasets: Datasets) -> None:
        self.by_role = {role: datasets.loader(name, config.seed, stage=stage.name) for role, name in stage.data.items()}
        self.train = self.by_role["train"]


def wire_stage(
    stage: StageConfig, assembly: Assembly, loaders: StageLoaders, device: torch.device
) -> tuple[Wiring, dict[str, Any]]:
    """Wire a stage on the first batch of its training data; returns the batch too."""
    batch = to_device(loaders.train.first_batch(), device)
    target = stage.metrics.target
    labels = [target] if target.path in batch or stage.metrics.explicit else []
    trained = [Address(name) for name in stage.metrics.models]
    frozen = [Address(name) for name in read_whole(stage, assembly) if name not in stage.metrics.models]
    facts = data_facts(loaders.train.dataset)
    wiring = wire(stage, assembly, batch, facts, observe=[*trained, *labels], observe_evaluation=frozen)
    return wiring, batch


class StageRun:
    """Trains one stage."""

    def __init__(
        self,
        config: Config,
        stage: StageConfig,
        assembly: Assembly,
        loaders: StageLoaders,
        folder: RunFolder,
        progress: Progress,
        epoch_ended: Callable[[EpochRecord], None],
    ) -> None:
        self.config = config
        self.stage = stage
        self.assembly = assembly
        self.folder = folder
        self.progress = progress
        self.epoch_ended = epoch_ended
        self.device = assembly.device
        self.loaders = loaders
        self.warnings: list[str] = []

    def run(self, judged_before: frozenset[str] = frozenset()) -> StageResult:
        """Train all epochs and return the result; models keep the best or last weights."""
        stage, assembly = self.stage, self.assembly
        self._start_weights()
        wiring, batch = wire_stage(stage, assembly, self.loaders, self.device)
        objective = wiring.objective
        try:
            # The rehearsal has looked at the other splits.
            loaders = {"train": self.loaders.train}
            self.judged, teachers = find_judged(self.config, stage, assembly, loaders, objective, batch)
            check_accumulation(stage, objective, batch)
            self._warn_of(wiring)
            trainer = self._trainer(objective)
            # Everything random from here on follows from the seed and the stage, whatever ran before.
            seed_everything(derive_seed(self.config.seed, "train", stage.name))
            best, epochs = self._train(objective, trainer)
            if best is not None and best.best_epoch is not None:
                load_checkpoint(self.folder.checkpoints / stage.name / "best", objective)
            assembly.trained.update(stage.train)
            self._save_weights()
            teachers = [name for name in teachers if name not in judged_before and name not in assembly.trained]
            tested, rows = self._test(objective, batch, teachers)
        finally:
            objective.close()
        return StageResult({**self._summary(best, epochs), "test": tested}, rows, self.warnings)

    def _warn(self, text: str) -> None:
        self.warnings.append(f"stage {self.stage.name}: {text}")
        self.progress.message(self.warnings[-1])

    def _warn_of(self, wiring: Wiring) -> None:
        if wiring.not_evaluated:
            self._warn(f"not evaluated, because they exist in training only: {', '.join(wiring.not_evaluated)}")
        if wiring.unreached:
            count, some = len(wiring.unreached), ", ".join(wiring.unreached[:3])
            more = ", ..." if count > 3 else ""
            self.progress.message(
                f"the first batch's gradient did not reach {count} trainable parameters: {some}{more}"
            )

    def _start_weights(self) -> None:
        self.assembly.begin(self.stage)
        for name, start in self.stage.start.items():
            load_state(self.assembly.models[name], self.folder.weights(start.stage, start.model), self.stage.place)

    def _trainer(self, objective: Objective) -> Trainer:
        optimizer, scheduler = make_optimizer(self.config, self.stage, objective, self.loaders.train)
        return Trainer(self.stage, objective, self.loaders.train, optimizer, scheduler, self.device, self.progress)

    def _train(self, objective: Objective, trainer: Trainer) -> tuple[Selection | None, int]:
        stage, checkpoints = self.stage, self.folder.checkpoints / self.stage.name
        best = Selection(stage.best.metric, stage.best.mode) if stage.best else None
        stop = stage.early_stop
        patience = Selection(stop.metric, stop.mode, stop.min_delta) if stop else None
        done = 0
        for epoch in range(stage.epochs or 1):
            started = time.perf_counter()
            self.progress.epoch_started(epoch)
            metrics = self._epoch(objective, trainer, epoch)
            _check_finite(stage, epoch, metrics)
            lr = [group["lr"] for group in trainer.optimizer.param_groups]
            if trainer.scheduler is not None:
                trainer.scheduler.epoch_ended(metrics)
            done = epoch + 1
            if not math.isfinite(metrics["train/loss"]):
                self._warn(f"train/loss is {metrics['train/loss']} in epoch {done}")
            state = {"stage": stage.name, "epoch": done, "step": trainer.step, **_training_state(trainer)}
            save_checkpoint(checkpoints / "last", objective, state)
            if best is not None and best.update(epoch, metrics):
                save_checkpoint(checkpoints / "best", objective, state)
            self.epoch_ended(EpochRecord(stage, epoch, trainer.step, time.perf_counter() - started, lr, metrics))
            if patience is not None and stop is not None:
                patience.update(epoch, metrics)
                if patience.waited >= stop.patience:
                    self.progress.message(
                        f"stage {stage.name} ends early: {stop.metric} has not improved for {stop.patience} epochs"
                    )
                    break
        return best, done

    def _epoch(self, objective: Objective, trainer: Trainer, epoch: int) -> dict[str, float]:
        rows = self.loaders.train.rows_per_sample
        judges = {name: Judge(self.stage.metrics, rows) for name in self.judged}
        means = trainer.epoch(epoch, judges)
        metrics = metric_values("train", means, {name: each for name, each in judges.items() if each.seen})
        for split in self.stage.metrics.splits:
            if split in self.loaders.by_role:
                metrics.update(self._evaluate(objective, split, self.judged)[0])
        return metrics

    def _evaluate(
        self, objective: Objective, split: str, models: list[str]
    ) -> tuple[dict[str, float], dict[str, Judge]]:
        loader = self.loaders.by_role[split]
        by_class = split == "test"
        judges = {name: Judge(self.stage.metrics, loader.rows_per_sample, by_class=by_class) for name in models}
        with forked_generators(derive_seed(self.config.seed, "evaluate", split)):
            means = evaluate(objective, loader, judges, self.stage, self.device, self.progress, split)
        return metric_values(split, means, judges), judges

    def _test(
        self, objective: Objective, batch: dict[str, Any], teachers: list[str]
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Look at the test split, once; returns its metrics, losses by term too, and a row for each model."""
        models = [*self.judged, *teachers]
        if "test" not in self.loaders.by_role:
            return {}, []
        metrics, judges = self._evaluate(objective, "test", models)
        names = getattr(self.loaders.by_role["test"].dataset, "class_names", None)
        rows = []
        for name in models:
            accuracy, counts = judges[name].per_class()
            labels = (
                list(names) if names is not None and len(names) == len(counts) else list(map(str, range(len(counts))))
            )
            own = {metric_name(kind): metrics[f"test/{name}/{metric_name(kind)}"] for kind in self.stage.metrics.kinds}
            rows.append(
                {
                    "stage": self.stage.name,
                    "title": self._title(name, teachers),
                    "model": name,
                    "split": "test",
                    "metrics": own,
                    "parameters": count_parameters(self.assembly.models[name]),
                    "latency_ms": measure_latency(self.assembly.models[name], self.config.models[name], batch),
                    "latency_batch": 1,
                    "per_class": {"names": labels, "accuracy": accuracy, "count": counts},
                }
            )
        return metrics, rows

    def _title(self, name: str, teachers: list[str]) -> str:
        if name in teachers:
            return f"{name} (not trained here)"
        return self.stage.title if len(self.judged) == 1 else f"{self.stage.title}: {name}"

    def _save_weights(self) -> None:
        for name in self.stage.train:
            module = self.assembly.module(name)
            save_tensors(module.state_dict(), self.folder.weights(self.stage.name, name))
            if name in self.assembly.models:
                save_tensors(module.state_dict(), self.folder.final(name))

    def _summary(self, best: Selection | None, epochs: int) -> dict[str, Any]:
        return {
            "name": self.stage.name,
            "title": self.stage.title,
            "epochs": epochs,
            "planned_epochs": self.stage.epochs,
            "best_epoch": best.best_epoch if best else None,
            "selected_by": best.metric if best else None,
            "losses": {
                term.name: {"type": term.loss.registered.name, "weight": term.weight} for term in self.stage.terms
            },
        }


def save_initial(config: Config, assembly: Assembly, folder: RunFolder) -> None:
    """Keep the initial weights of the models that some stage starts from."""
    starts = [start for stage in config.stages for start in stage.start.values()]
    for name in {start.model for start in starts if start.stage == INITIAL}:
        save_tensors(assembly.models[name].state_dict(), folder.weights(INITIAL, name))


def _check_finite(stage: StageConfig, epoch: int, metrics: dict[str, float]) -> None:
    """Raise RunError once training has diverged: from there on every step is lost."""
    if math.isfinite(metrics["train/loss"]):
        return
    terms = [name for name, value in metrics.items() if name.startswith("train/losses/") and not math.isfinite(value)]
    raise RunError(
        f"stage {stage.name!r} diverged in epoch {epoch}: train/loss is {metrics['train/loss']}"
        + (f", and so {'is' if len(terms) == 1 else 'are'} {', '.join(terms)}" if terms else ""),
        place=stage.place,
        repair="lower the learning rate, set clip_grad_norm, or look for samples that are not finite",
    )


def _training_state(trainer: Trainer) -> dict[str, Any]:
    scheduler = trainer.scheduler.state_dict() if trainer.scheduler is not None else None
    return {"optimizer": trainer.optimizer.state_dict(), "scheduler": scheduler}
