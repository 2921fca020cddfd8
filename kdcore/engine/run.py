"""A whole run: stages one after the other, and the folder they leave behind."""

from __future__ import annotations

import contextlib
import logging
import shlex
import time
from pathlib import Path
from typing import Any

from kdcore.config.config import Config
from kdcore.config.distributed import DDP
from kdcore.engine.data import Datasets
from kdcore.engine.device import device_errors
from kdcore.engine.dry_run import rehearse
from kdcore.engine.environment import describe_environment
from kdcore.engine.epochs import EpochRecord
from kdcore.engine.folder import RunFolder
from kdcore.engine.identity import check_identity, identify, read_identity, write_identity
from kdcore.engine.interrupt import Interrupt, Interrupted
from kdcore.engine.lock import locked
from kdcore.engine.measure import show
from kdcore.engine.processes import Processes, processes_of
from kdcore.engine.progress import Progress, StagePlan, make_progress
from kdcore.engine.report import write_report
from kdcore.engine.results import StageResult
from kdcore.engine.stage import StageLoaders, StageRun, restore_stage, save_initial
from kdcore.engine.tensorboard import TensorBoard
from kdcore.errors import KdcoreError
from kdcore.pipeline.assembly import Assembly
from kdcore.pipeline.randomness import forked_generators
from kdcore.plugins import Registry
from kdcore.plugins import registry as installed

_log = logging.getLogger(__name__)


def run(
    config: Config,
    *,
    progress: Progress | None = None,
    registry: Registry | None = None,
    quiet: bool = False,
    resume: str | Path | None = None,
    accept_changes: bool = False,
) -> Path:
    """Run every stage of a checked config and return the run folder.

    Arguments:
        config: what to run.
        progress: the display; by default one that fits the terminal.
        registry: where lifecycle hooks are looked up; by default all installed plugins.
        quiet: show nothing.
        resume: the folder of a run that was interrupted, to go on where it was last saved.
        accept_changes: resume even if config, versions, data or weights files are not what they were.

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
        live = _Run(config, shown, registry or installed(), interrupt, processes)
        if resume is None:
            return live.start()
        return live.resume(RunFolder(Path(resume)), accept_changes=accept_changes)


class _Run:
    def __init__(
        self, config: Config, progress: Progress, registry: Registry, interrupt: Interrupt, processes: Processes
    ) -> None:
        self.config = config
        self.processes = processes
        self.progress = progress
        self.hook = registry.manager.hook
        self.registry = registry
        self.interrupt = interrupt
        self.device = processes.device()
        self.results: dict[str, Any] = {"status": "running", "seconds": 0.0, "stages": [], "rows": [], "warnings": []}

    def start(self) -> Path:
        """Begin a new run."""
        config = self.config
        assembly = Assembly.build(config, self.device)
        datasets = self._datasets()
        plans = self._rehearse(assembly, datasets)
        folder = RunFolder(self.processes.share(RunFolder.create(config).path if self.processes.main else None))
        with self._locked(folder):
            if self.processes.main:
                self._describe(folder, datasets)
                save_initial(config, assembly, folder)
            return self._execute(assembly, datasets, folder, plans, completed=0)

    def resume(self, folder: RunFolder, *, accept_changes: bool) -> Path:
        """Go on with a run where it was last saved."""
        config = self.config
        with self._locked(folder):
            assembly = Assembly.build(config, self.device)
            datasets = self._datasets()
            if self.processes.main:
                folder.remove_leftovers()
                self._check_identity(folder, datasets, accept_changes)
            plans = self._rehearse(assembly, datasets)
            if self.processes.main:
                self._describe(folder, datasets)
                # A stage may start from them, and models are built the same again.
                save_initial(config, assembly, folder)
            completed = self._restore(assembly, folder)
            return self._execute(assembly, datasets, folder, plans, completed)

    def _datasets(self) -> Datasets:
        return Datasets(self.config.data, self.processes.rank, self.processes.count, self.interrupt.waiting)

    def _locked(self, folder: RunFolder) -> contextlib.AbstractContextManager[None]:
        return locked(folder.path) if self.processes.main else contextlib.nullcontext()

    def _check_identity(self, folder: RunFolder, datasets: Datasets, accept: bool) -> None:
        saved = read_identity(folder.path)
        if saved is not None:
            check_identity(saved, identify(self.config, datasets), folder.path, self.progress.message, accept)

    def _describe(self, folder: RunFolder, datasets: Datasets) -> None:
        folder.write_config(self.config.resolved)
        write_identity(identify(self.config, datasets), folder.path)
        folder.write_json("environment.json", describe_environment(self.device, self.registry))

    def _restore(self, assembly: Assembly, folder: RunFolder) -> int:
        """Put everything where the completed stages had left it, and return how many they are."""
        main = self.processes.main
        for index, stage in enumerate(self.config.stages):
            result = self.processes.share(StageResult.read(folder.result(stage.name)) if main else None)
            if result is None or not result.covers(stage):
                if main:
                    folder.forget([each.name for each in self.config.stages[index + 1 :]])
                return index
            restore_stage(stage, assembly, folder, self.processes)
            self._add(result)
        return len(self.config.stages)

    def _execute(
        self, assembly: Assembly, datasets: Datasets, folder: RunFolder, plans: list[StagePlan], completed: int
    ) -> Path:
        started = time.perf_counter() - folder.seconds()
        self.progress.run_started(self.config.name, folder.path, plans)
        for text in assembly.loaded.values():
            self.progress.message(text)
        if (strategy := self.config.distributed.strategy) != DDP and self.processes.count == 1:
            self.progress.message(f"strategy: {strategy} splits nothing, because this run has one process")
        self._call("run_started", folder=folder.path, config=dict(self.config.resolved))
        status = "failed"
        try:
            self._stages(assembly, datasets, folder, completed)
            status = "completed"
        except KeyboardInterrupt as signal:
            status = "interrupted"
            if isinstance(signal, Interrupted):
                signal.advice = "; ".join(filter(None, (signal.advice, _resume_command(folder.path))))
            raise
        except KdcoreError:
            self.progress.message(_resume_command(folder.path))
            raise
        finally:
            # How the run ended is settled, and worth writing whatever signal comes now.
            with self.interrupt.deferred():
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
            _log.warning("the report could not be written", exc_info=error)
            self.progress.message(f"the report could not be written: {error}; kd report {folder.path} tries again")
            return None

    def _rehearse(self, assembly: Assembly, datasets: Datasets) -> list[StagePlan]:
        """Wire every stage once: a mistake in the last one must not show after the others have trained."""
        plans = []
        with forked_generators():
            for stage in self.config.stages:
                report = rehearse(self.config, stage, assembly, datasets, gradients=False)
                plans.append(StagePlan(stage.name, stage.title, report.epochs, report.steps_per_epoch))
        assembly.trained.clear()
        return plans

    def _stages(self, assembly: Assembly, datasets: Datasets, folder: RunFolder, completed: int) -> None:
        def epoch_ended(record: EpochRecord) -> None:
            if board is None:
                return
            folder.append_metrics(record.as_line())
            board.write(record.stage.name, record.step, record.metrics, record.lr)
            self.progress.epoch_ended(record.epoch, record.metrics, record.lr)
            name, metrics = record.stage.name, dict(record.metrics)
            self._call("epoch_ended", folder=folder.path, stage=name, epoch=record.epoch, metrics=metrics)

        main = self.processes.main
        with TensorBoard(folder.path / "tensorboard") if main else contextlib.nullcontext() as board:
            for stage in self.config.stages[completed:]:
                self.progress.stage_started(stage.index)
                judged = frozenset(row["model"] for row in self.results["rows"])
                loaders = StageLoaders(self.config, stage, datasets)
                live = StageRun(
                    self.config,
                    stage,
                    assembly,
                    loaders,
                    folder,
                    self.progress,
                    epoch_ended,
                    self.interrupt,
                    self.processes,
                )
                try:
                    result = live.run(judged_before=judged)
                except KdcoreError as error:
                    raise error.at(stage.place) from error
                self._add(result)
                if main:
                    folder.write_json("results.json", self.results)
                self.progress.stage_ended(_told(result.rows))

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


def _resume_command(folder: Path) -> str:
    return f"kd run --resume {shlex.quote(str(folder))} goes on from there"
