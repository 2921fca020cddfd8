"""A whole run: stages one after the other, and the folder they leave behind."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdcore.advice import Advice, Call
from kdcore.config.config import Config, StageConfig
from kdcore.config.distributed import DDP
from kdcore.engine.carried import UnfitStateError
from kdcore.engine.completed import Completed
from kdcore.engine.data import Datasets
from kdcore.engine.device import device_errors
from kdcore.engine.dry_run import rehearse
from kdcore.engine.environment import describe_environment
from kdcore.engine.epochs import EpochRecord
from kdcore.engine.folder import RunFolder
from kdcore.engine.identity import check_identity, identify, write_identity
from kdcore.engine.interrupt import Abandoned, Interrupt, Interrupted
from kdcore.engine.lock import locked
from kdcore.engine.measure import show
from kdcore.engine.nonfinite import DivergedError
from kdcore.engine.processes import Processes, processes_of
from kdcore.engine.progress import Progress, StagePlan, make_progress
from kdcore.engine.report import write_report
from kdcore.engine.results import StageResult
from kdcore.engine.stage import StageLoaders, StageRun
from kdcore.engine.stage_weights import save_initial
from kdcore.engine.tensorboard import TensorBoard
from kdcore.engine.workers import deaths_unheard
from kdcore.errors import KdcoreError
from kdcore.pipeline.agreement import check_agreement
from kdcore.pipeline.assembly import Assembly
from kdcore.pipeline.randomness import forked_generators
from kdcore.plugins import Registry
from kdcore.plugins import registry as installed

_log = logging.getLogger(__name__)

_SAME_WEIGHTS = (
    "each process would distil towards another {name}: give every machine the same weights file, or let the model's "
    "factory draw from torch's generator alone, which kd run seeds alike in every process"
)

FROM_PYTHON = Call("kdcore.run(config, resume={folder})")


def run(
    config: Config,
    *,
    progress: Progress | None = None,
    registry: Registry | None = None,
    quiet: bool = False,
    resume: str | Path | None = None,
    accept_changes: bool = False,
    advice: Advice = FROM_PYTHON,
) -> Path:
    """Run every stage of a checked config and return the run folder.

    Arguments:
        config: what to run.
        progress: the display; by default one that fits the terminal.
        registry: where lifecycle hooks are looked up; by default all installed plugins.
        quiet: show nothing.
        resume: the folder of a run that was interrupted, to go on where it was last saved.
        accept_changes: resume even if config, versions, data or weights files are not what they were.
        advice: how users are told to go on with a run that has ended early.

    Raises:
        KdcoreError: something about the config, data, weights or machine stops the run; the folder
            keeps what was done until then, and can be resumed.
        Interrupted: a signal ended it; its state was saved first.
    """
    processes = processes_of(config)
    if not processes.main:
        progress = make_progress(quiet=True)
    interrupt = Interrupt(processes.vote, alone=processes.count == 1)
    with progress or make_progress(quiet=quiet) as shown, processes.together(), device_errors(), interrupt:
        live = _Run(config, shown, registry or installed(), interrupt, processes, advice)
        if resume is None:
            return live.start()
        return live.resume(RunFolder(Path(resume)), accept_changes=accept_changes)


class _Run:
    def __init__(
        self,
        config: Config,
        progress: Progress,
        registry: Registry,
        interrupt: Interrupt,
        processes: Processes,
        advice: Advice,
    ) -> None:
        self.config = config
        self.processes = processes
        self.progress = progress
        self.hook = registry.manager.hook
        self.registry = registry
        self.interrupt = interrupt
        self.advice = advice
        self.device = processes.device()
        self._trained = False
        self.results: dict[str, Any] = {"status": "running", "seconds": 0.0, "stages": [], "rows": [], "warnings": []}

    def start(self) -> Path:
        """Begin a new run."""
        config = self.config
        assembly = Assembly.build(config, self.device)
        datasets = self._datasets()
        plans = self._rehearse(assembly, datasets)
        folder = RunFolder(self.processes.share(RunFolder.create(config).path if self.processes.main else None))
        with self._locked(folder), self._advised(folder):
            if self.processes.main:
                self._describe(folder, identify(config, datasets, self.processes.count))
                save_initial(config, assembly, folder)
            return self._execute(assembly, datasets, folder, plans)

    def resume(self, folder: RunFolder, *, accept_changes: bool) -> Path:
        """Go on with a run where it was last saved."""
        config = self.config
        with self._locked(folder), self._advised(folder):
            assembly = Assembly.build(config, self.device)
            datasets = self._datasets()
            if self.processes.main:
                folder.remove_leftovers()
                identity = identify(config, datasets, self.processes.count)
                check_identity(folder.path, identity, self.progress.message, accept_changes, self.advice)
            plans = self._rehearse(assembly, datasets)
            described = folder.description()
            if self.processes.main:
                self._describe(folder, identity)
                # A stage may start from them, and models are built the same again.
                save_initial(config, assembly, folder)
            try:
                return self._execute(assembly, datasets, folder, plans)
            except UnfitStateError:
                # Changes that nothing was trained under need not be taken back by hand.
                if self.processes.main and not self._trained:
                    folder.describe_again(described)
                raise

    def _datasets(self) -> Datasets:
        return Datasets(self.config.data, self.processes.rank, self.processes.count, self.interrupt.waiting)

    def _locked(self, folder: RunFolder) -> contextlib.AbstractContextManager[None]:
        return locked(folder.path) if self.processes.main else contextlib.nullcontext()

    def _describe(self, folder: RunFolder, identity: Mapping[str, Any]) -> None:
        # The config last: with it a run has begun, and one that has begun can say what it depends on.
        write_identity(identity, folder.path)
        folder.write_config(self.config.resolved)
        folder.write_json("environment.json", describe_environment(self.device, self.registry))

    def _execute(self, assembly: Assembly, datasets: Datasets, folder: RunFolder, plans: list[StagePlan]) -> Path:
        started = time.perf_counter() - folder.seconds()
        self.progress.run_started(self.config.name, folder.path, plans)
        for text in assembly.loaded.values():
            self.progress.message(text)
        if (strategy := self.config.distributed.strategy) != DDP and self.processes.count == 1:
            self.progress.message(f"strategy: {strategy} splits nothing, because this run has one process")
        self._call("run_started", folder=folder.path, config=dict(self.config.resolved))
        status = "failed"
        try:
            self._stages(assembly, datasets, folder)
            status = "completed"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except Exception as error:
            # Where nothing changes a run meets the same numbers again.
            setting = error.setting if isinstance(error, DivergedError) else ""
            self.progress.message(self._going_on(folder, setting))
            raise
        finally:
            # How the run ended is settled, and worth writing whatever signal comes now.
            with self.interrupt.deferred(), deaths_unheard():
                self.results.update(status=status, seconds=round(time.perf_counter() - started, 3))
                report = self._finish(folder) if self.processes.main else None
                self._call("run_ended", folder=folder.path, status=status)
        self.progress.run_ended(self.results["rows"], report)
        # Nobody goes on to read the folder before the main process has written it.
        self.processes.any(False)
        return folder.path

    def _finish(self, folder: RunFolder) -> Path | None:
        try:
            folder.write_json("results.json", self.results)
        except KdcoreError as error:  # the error that ended the run, often the same, may not be lost
            if self.results["status"] == "completed":
                raise
            self.progress.message(f"results.json is not up to date: {error.problem.what}")
        return self._report(folder)

    def _report(self, folder: RunFolder) -> Path | None:
        try:
            return write_report(folder.path)
        except Exception as error:  # neither the results nor the error that ended the run may be lost to a report
            what = error.problem.what if isinstance(error, KdcoreError) else f"{type(error).__name__}: {error}"
            if not isinstance(error, (KdcoreError, OSError)):
                _log.warning("the report could not be written", exc_info=error)
            self.progress.message(f"the report could not be written: {what}; kd report {folder.path} tries again")
            return None

    def _rehearse(self, assembly: Assembly, datasets: Datasets) -> list[StagePlan]:
        """Wire every stage once: a mistake in the last one must not show after the others have trained."""
        plans = []
        with forked_generators():
            for stage in self.config.stages:
                report = rehearse(self.config, stage, assembly, datasets, gradients=False)
                plans.append(StagePlan(stage.name, stage.title, report.epochs, report.steps_per_epoch))
        assembly.trained.clear()
        self._check_frozen(assembly)
        return plans

    def _check_frozen(self, assembly: Assembly) -> None:
        """Raise WiringError where the processes have built or loaded different models that no stage trains."""
        if self.processes.count == 1:
            return
        trained = {name for stage in self.config.stages for name in stage.train}
        parts = {name: each for name, each in {**assembly.models, **assembly.adapters}.items() if name not in trained}
        places = {each.name: each.place for each in self.config.models.values()}
        places |= {each.name: each.place for each in self.config.adapters.values()}
        check_agreement(parts, places, gather=self.processes.gather, repair=_SAME_WEIGHTS)

    def _stages(self, assembly: Assembly, datasets: Datasets, folder: RunFolder) -> None:
        completed = Completed(self.config, assembly, folder, self.processes, self.progress.message)
        with TensorBoard(folder.path / "tensorboard") if self.processes.main else contextlib.nullcontext() as board:
            for stage in self.config.stages:
                try:
                    result = completed.restore(stage)
                    if result is not None:
                        self._add(result)
                        continue
                    result = self._train(stage, assembly, datasets, folder, board, completed)
                except KdcoreError as error:
                    raise error.at(stage.place) from error
                self._add(result)
                if self.processes.main:
                    folder.write_json("results.json", self.results)
                self.progress.stage_ended(_told(result.rows))

    def _train(
        self,
        stage: StageConfig,
        assembly: Assembly,
        datasets: Datasets,
        folder: RunFolder,
        board: TensorBoard | None,
        completed: Completed,
    ) -> StageResult:
        def epoch_ended(record: EpochRecord) -> None:
            self._trained = True
            if board is None:
                return
            folder.append_metrics(record.as_line())
            board.write(stage.name, record.step, record.metrics, record.lr)
            self.progress.epoch_ended(record.epoch, record.metrics, record.lr)
            metrics = dict(record.metrics)
            self._call("epoch_ended", folder=folder.path, stage=stage.name, epoch=record.epoch, metrics=metrics)

        self.progress.stage_started(stage.index)
        judged = frozenset(row["model"] for row in self.results["rows"])
        live = StageRun(
            self.config,
            stage,
            assembly,
            StageLoaders(self.config, stage, datasets),
            folder,
            self.progress,
            epoch_ended,
            self.interrupt,
            self.processes,
            ending=lambda weights: completed.ending(stage, weights),
        )
        return live.run(judged_before=judged)

    @contextlib.contextmanager
    def _advised(self, folder: RunFolder) -> Iterator[None]:
        """Let a signal that ends the run say how to go on, once there is something to go on with."""
        try:
            yield
        except (Interrupted, Abandoned) as signal:
            if (folder.path / "config.yaml").is_file():
                signal.advice = "; ".join(filter(None, (signal.advice, self._going_on(folder))))
            raise

    def _going_on(self, folder: RunFolder, setting: str = "") -> str:
        changed = self.advice.changing.format(setting) if setting else ""
        return f"{self.advice.resume(folder.path)}{changed} goes on from there"

    def _add(self, result: StageResult) -> None:
        self.results["stages"].append(result.summary)
        self.results["rows"].extend(result.rows)
        self.results["warnings"].extend(result.warnings)

    def _call(self, name: str, **arguments: Any) -> None:
        """Tell every plugin that wants to know; one that fails or draws random numbers changes nothing."""
        if not self.processes.main:
            return
        for each in getattr(self.hook, name).get_hookimpls():
            try:
                with forked_generators():
                    each.function(**{key: arguments[key] for key in each.argnames})
            except Exception as error:  # a plugin that only watches must not end a run
                _log.warning("the %s hook of %s failed", name, each.plugin_name, exc_info=error)
                what = f"{type(error).__name__}: {error}"
                self.progress.message(f"the {name} hook of {each.plugin_name} failed and is ignored: {what}")


def _told(rows: list[dict[str, Any]]) -> str:
    """Return a stage's test results in a line."""
    return "; ".join(
        f"{row['title']}: " + ", ".join(f"test {name} {show(name, value)}" for name, value in row["metrics"].items())
        for row in rows
    )
