"""One stage of a run: wire it, train it, keep the best, judge the result."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from kdcore.address import Address
from kdcore.config.config import Config, StageConfig
from kdcore.engine.cache.caches import StageCaches
from kdcore.engine.data import Datasets
from kdcore.engine.device import to_device
from kdcore.engine.divergence import Divergences
from kdcore.engine.epochs import EpochRecord, Epochs
from kdcore.engine.evaluation import evaluate
from kdcore.engine.folder import RunFolder
from kdcore.engine.interrupt import Interrupt
from kdcore.engine.judged import find_judged, read_whole
from kdcore.engine.memory import Memory
from kdcore.engine.metrics import Judge, metric_values
from kdcore.engine.processes import Processes
from kdcore.engine.progress import Progress
from kdcore.engine.pruning import StagePruning, reviving
from kdcore.engine.results import StageResult, summarize, test_rows
from kdcore.engine.stage_weights import StageWeights
from kdcore.engine.steps import check_accumulation, make_optimizer, steps_per_epoch
from kdcore.engine.trainer import Trainer
from kdcore.pipeline.assembly import Assembly
from kdcore.pipeline.build import data_facts
from kdcore.pipeline.objective import Objective
from kdcore.pipeline.randomness import derive_seed, forked_generators, seed_everything
from kdcore.pipeline.readable import check_readable
from kdcore.pipeline.wire import Wiring, wire


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
        interrupt: Interrupt,
        processes: Processes,
        ending: Callable[[Mapping[str, str]], None],
    ) -> None:
        self.config = config
        self.stage = stage
        self.assembly = assembly
        self.folder = folder
        self.progress = progress
        self.epoch_ended = epoch_ended
        self.interrupt = interrupt
        self.processes = processes
        self.ending = ending
        self.device = assembly.device
        self.loaders = loaders
        self.weights = StageWeights(stage, assembly, folder, processes)
        self.warnings: list[str] = []
        self._when = ""
        self.pruning: StagePruning | None = None

    def run(self, judged_before: frozenset[str] = frozenset()) -> StageResult:
        """Train the epochs that are left and return the result; models keep the best or last weights."""
        with Memory(self.assembly, self.stage) as memory:
            self.weights.start()
            wiring, batch = wire_stage(self.stage, self.assembly, self.loaders, self.device)
            self._warn_of(wiring)
            self._prune(wiring.objective, batch)
            self._freeze_unreached(wiring)
            if self.stage.compile:
                wiring.objective.compile_models()
            try:
                result = self._run(wiring, batch, judged_before, memory)
            finally:
                wiring.objective.close()
        if self.processes.main:
            result.write(self.folder.result(self.stage.name))
        return result

    def _run(self, wiring: Wiring, batch: dict[str, Any], judged_before: frozenset[str], memory: Memory) -> StageResult:
        stage, assembly, objective = self.stage, self.assembly, wiring.objective
        # The rehearsal has looked at the other splits.
        loaders = {"train": self.loaders.train}
        self.judged, teachers = find_judged(self.config, stage, assembly, loaders, objective, batch)
        check_accumulation(stage, objective, batch)
        by_role, tell = self.loaders.by_role, self.progress.message
        self.caches = StageCaches(self.config, stage, assembly, by_role, objective, tell)
        self.caches.use("train")
        self.processes.shard(objective, wiring.blocks)
        with contextlib.closing(self._trainer(objective)) as trainer:
            memory.optimizer = trainer.optimizer
            epochs, count = self._train(objective, trainer)
            weights = self.weights.save(self.ending) if self.processes.main else {}
            teachers = [name for name in teachers if name not in judged_before and name not in assembly.trained]
            tested, rows = self._test(objective, batch, teachers)
        summary = {**summarize(stage, epochs.best, count), "test": tested}
        if self.pruning is not None:
            summary["pruning"] = self.pruning.summary()
            self.pruning.add_to(rows, assembly.models)
        return StageResult(summary, rows, self.warnings, weights)

    def _train(self, objective: Objective, trainer: Trainer) -> tuple[Epochs, int]:
        """Train the epochs that are left, and go back to the best; returns them, and how many there were in all."""
        # Everything random from here on follows from the seed, the stage and the process, whatever ran before.
        others = [self.processes.rank] if self.processes.rank else []
        seed_everything(derive_seed(self.config.seed, "train", self.stage.name, *others))
        epochs = self._epochs(objective, trainer)
        if not epochs.resume() and self.processes.main:
            self.folder.forget([self.stage.name])
        count = epochs.run()
        epochs.load_best()
        if epochs.best is not None and epochs.best.best_epoch is None:
            self._warn(f"{epochs.best.metric} was finite in no epoch that counts, so the last one's weights are kept")
        if self.pruning is not None and (shortfall := self.pruning.shortfall()):
            self._warn(shortfall)
        self.assembly.trained.update(self.stage.train)
        if self.processes.sharded:
            self.weights.put_together()
        return epochs, count

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

    def _warn_of_values(self, split: str, found: list[str]) -> None:
        """Say once for a split that its values are not finite, and what that means for the choice of an epoch."""
        start = f"stage {self.stage.name}: {split}/loss is not finite"
        if not found or any(each.startswith(start) for each in self.warnings):
            return
        stage, means = self.stage, ""
        if stage.best is not None and stage.best.metric.startswith(f"{split}/loss"):
            means += f"; while {stage.best.metric} is not finite no epoch is the best"
        if stage.early_stop is not None and stage.early_stop.metric.startswith(f"{split}/loss"):
            means += "; early_stop counts such an epoch as one without improvement"
        self._warn(f"{split}/loss is not finite{self._when}: {found[0]}{means}")

    def _freeze_unreached(self, wiring: Wiring) -> None:
        """Freeze what gets no gradient, which the processes would wait for in vain when they average gradients."""
        if self.processes.count == 1 or self.stage.find_unused or not wiring.unreached:
            return
        unreached = set(wiring.unreached)
        for name, parameter in wiring.objective.named_trainable():
            if name in unreached:
                parameter.requires_grad_(False)
        self.progress.message(
            "they are frozen in this stage, because several processes train; find_unused: true keeps them trainable"
        )

    def _trainer(self, objective: Objective) -> Trainer:
        optimizer, scheduler = make_optimizer(self.config, self.stage, objective, self.loaders.train)
        train, pruner = self.loaders.train, self.pruning.pruner if self.pruning else None
        tell, processes = self._warn, self.processes
        divergences = Divergences(self.folder, self.stage, processes.rank)
        return Trainer(
            self.stage,
            objective,
            train,
            optimizer,
            scheduler,
            self.device,
            self.progress,
            tell,
            processes,
            pruner,
            divergences,
        )

    def _prune(self, objective: Objective, batch: dict[str, Any]) -> None:
        """Build the pruner, where the stage has one, before anything is compiled or split."""
        for text in reviving(self.config, self.stage):
            self._warn(text)
        if self.stage.pruning:
            steps = steps_per_epoch(self.stage, self.loaders.train)
            self.pruning = StagePruning(self.config, self.stage, objective, batch, steps)
            self._tell(self.pruning.remarks())

    def _tell(self, texts: list[str]) -> None:
        for text in texts:
            self.progress.message(f"stage {self.stage.name}: {text}")

    def _epochs(self, objective: Objective, trainer: Trainer) -> Epochs:
        rows = self.loaders.train.rows_per_sample

        def evaluate(means: dict[str, float], judges: dict[str, Judge]) -> dict[str, float]:
            judges = {name: each.merged(self.processes.gather) for name, each in judges.items()}
            metrics = metric_values("train", means, {name: each for name, each in judges.items() if each.seen})
            if self.pruning is not None:
                metrics.update(self.pruning.metrics())
                self._tell(self.pruning.news())
            self._when = f" in epoch {made.epoch + 1} of {self.stage.epochs}"
            for split in self.stage.metrics.splits:
                if split in self.loaders.by_role:
                    metrics.update(self._evaluate(objective, split, self.judged)[0])
            self._when = ""
            return metrics

        made = Epochs(
            self.stage,
            self.config.checkpoints,
            objective,
            trainer,
            self.folder,
            evaluate=evaluate,
            new_judges=lambda: {name: Judge(self.stage.metrics, rows) for name in self.judged},
            interrupt=self.interrupt,
            processes=self.processes,
            progress=self.progress,
            epoch_ended=self.epoch_ended,
            check_state=lambda: check_readable(objective, self.config, self.stage),
            warnings=self.warnings,
        )
        return made

    def _evaluate(
        self, objective: Objective, split: str, models: Sequence[str]
    ) -> tuple[dict[str, float], dict[str, Judge]]:
        loader = self.loaders.by_role[split]
        by_class = split == "test"
        judges = {name: Judge(self.stage.metrics, loader.rows_per_sample, by_class=by_class) for name in models}
        check, processes = self.interrupt.check, self.processes
        # Each process has kept the batch statistics of its own samples.
        processes.align(objective.models, objective.adapters, parameters=False)
        found: list[str] = []
        with forked_generators(derive_seed(self.config.seed, "evaluate", split)), self.caches.on(split):
            means = evaluate(
                objective, loader, judges, self.stage, self.device, self.progress, split, check, processes, found.append
            )
        self._warn_of_values(split, found)
        judges = {name: each.merged(processes.gather) for name, each in judges.items()}
        return metric_values(split, means, judges), judges

    def _test(
        self, objective: Objective, batch: dict[str, Any], teachers: Sequence[str]
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        if "test" not in self.loaders.by_role:
            return {}, []
        title = self.stage.title
        titles = {name: title if len(self.judged) == 1 else f"{title}: {name}" for name in self.judged}
        titles |= {name: f"{name} (not trained here)" for name in teachers}
        loader = self.loaders.by_role["test"]

        def judged(split: str, models: Sequence[str]) -> tuple[dict[str, float], dict[str, Judge]]:
            return self._evaluate(objective, split, models)

        return test_rows(
            self.config, self.stage, self.assembly, loader, batch, judged, titles, latency=self.processes.main
        )
