"""One stage of a run: wire it, train it, keep the best, judge the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from kdcore.address import Address
from kdcore.config.config import Config, StageConfig
from kdcore.config.stages import INITIAL
from kdcore.engine.cache.caches import StageCaches
from kdcore.engine.checkpoint import save_tensors
from kdcore.engine.data import Datasets
from kdcore.engine.device import to_device
from kdcore.engine.digest import digest_of
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
from kdcore.engine.steps import check_accumulation, make_optimizer, steps_per_epoch
from kdcore.engine.trainer import Trainer
from kdcore.pipeline.assembly import Assembly
from kdcore.pipeline.build import data_facts
from kdcore.pipeline.objective import Objective
from kdcore.pipeline.randomness import derive_seed, forked_generators, seed_everything
from kdcore.pipeline.starts import take, tensors_to_take
from kdcore.pipeline.weights import read_tensors
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
        self.warnings: list[str] = []
        self._when = ""
        self.pruning: StagePruning | None = None

    def run(self, judged_before: frozenset[str] = frozenset()) -> StageResult:
        """Train the epochs that are left and return the result; models keep the best or last weights."""
        with Memory(self.assembly, self.stage) as memory:
            self._start_weights()
            wiring, batch = wire_stage(self.stage, self.assembly, self.loaders, self.device)
            self._warn_of(wiring)
            self._prune(wiring.objective, batch)
            self._freeze_unreached(wiring)
            if self.stage.compile:
                wiring.objective.compile_models()
            try:
                result = self._run(wiring, batch, judged_before, memory)
            finally:
                self.processes.unwrap()
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
        trainer = self._trainer(objective)
        memory.optimizer = trainer.optimizer
        # Everything random from here on follows from the seed, the stage and the process, whatever ran before.
        others = [self.processes.rank] if self.processes.rank else []
        seed_everything(derive_seed(self.config.seed, "train", stage.name, *others))
        epochs = self._epochs(objective, trainer)
        if not epochs.resume() and self.processes.main:
            self.folder.forget([stage.name])
        count = epochs.run()
        epochs.load_best()
        if epochs.best is not None and epochs.best.best_epoch is None:
            self._warn(f"{epochs.best.metric} was finite in no epoch that counts, so the last one's weights are kept")
        if self.pruning is not None and (shortfall := self.pruning.shortfall()):
            self._warn(shortfall)
        assembly.trained.update(stage.train)
        if self.processes.sharded:
            self._put_together()
        weights = self._save_weights() if self.processes.main else {}
        teachers = [name for name in teachers if name not in judged_before and name not in assembly.trained]
        tested, rows = self._test(objective, batch, teachers)
        summary = {**summarize(stage, epochs.best, count), "test": tested}
        if self.pruning is not None:
            summary["pruning"] = self.pruning.summary()
            self.pruning.add_to(rows, assembly.models)
        return StageResult(summary, rows, self.warnings, weights)

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

    def _start_weights(self) -> None:
        self.assembly.begin(self.stage)
        for name, start in self.stage.start.items():
            module = self.assembly.models[name]
            if self.processes.main:
                names = tensors_to_take(name, start, module, self.assembly.models[start.model], self.stage.place)
                take(module, read_tensors(self.folder.weights(start.stage, start.model), self.stage.place), names)
            self.processes.align(module)

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

    def _put_together(self) -> None:
        """Build what was trained anew, whole, as resuming would; the split modules end with the Objective."""
        for name in self.stage.train:
            state = self.processes.whole(self.assembly.module(name).state_dict(), everywhere=True)
            self.assembly.renew(name, state)

    def _save_weights(self) -> dict[str, str]:
        """Save what was trained, and return its digests."""
        states = {name: self.assembly.module(name).state_dict() for name in self.stage.train}
        digests = {name: digest_of(state) for name, state in states.items()}
        self.ending(digests)
        for name, state in states.items():
            save_tensors(state, self.folder.weights(self.stage.name, name))
            if name in self.assembly.models:
                save_tensors(state, self.folder.final(name))
        return digests


def save_initial(config: Config, assembly: Assembly, folder: RunFolder) -> None:
    """Keep the initial weights of the models that some stage starts from."""
    starts = [start for stage in config.stages for start in stage.start.values()]
    for name in {start.model for start in starts if start.stage == INITIAL}:
        save_tensors(assembly.models[name].state_dict(), folder.weights(INITIAL, name))
