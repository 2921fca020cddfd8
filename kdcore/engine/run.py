"""A whole run: stages one after the other, and the folder they leave behind."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from kdcore.config.config import Config
from kdcore.engine.data import Datasets
from kdcore.engine.device import choose_device, device_errors
from kdcore.engine.dry_run import rehearse
from kdcore.engine.environment import describe_environment
from kdcore.engine.folder import RunFolder
from kdcore.engine.measure import show
from kdcore.engine.progress import Progress, StagePlan, make_progress
from kdcore.engine.report import write_report
from kdcore.engine.stage import EpochRecord, StageLoaders, StageRun, save_initial
from kdcore.engine.tensorboard import TensorBoard
from kdcore.errors import KdcoreError
from kdcore.pipeline.assembly import Assembly
from kdcore.pipeline.randomness import forked_generators
from kdcore.plugins import Registry
from kdcore.plugins import registry as installed

_log = logging.getLogger(__name__)


def run(
    config: Config, *, progress: Progress | None = None, registry: Registry | None = None, quiet: bool = False
) -> Path:
    """Run every stage of a checked config and return the run folder.

    Raises:
        KdcoreError: something about the config, data, weights or machine stops the run; the folder
            keeps what was done until then.
    """
    with progress or make_progress(quiet=quiet) as shown, device_errors():
        return _Run(config, shown, registry or installed()).execute()


class _Run:
    def __init__(self, config: Config, progress: Progress, registry: Registry) -> None:
        self.config = config
        self.progress = progress
        self.hook = registry.manager.hook
        self.registry = registry
        self.results: dict[str, Any] = {"status": "running", "seconds": 0.0, "stages": [], "rows": [], "warnings": []}

    def execute(self) -> Path:
        config = self.config
        device = choose_device(config.device, config.place("device"))
        assembly = Assembly.build(config, device)
        datasets = Datasets(config.data)
        plans = self._rehearse(assembly, datasets)
        folder = RunFolder.create(config)
        started = time.perf_counter()
        folder.write_config(config.resolved)
        folder.write_json("environment.json", describe_environment(device, self.registry))
        self.progress.run_started(config.name, folder.path, plans)
        for text in assembly.loaded.values():
            self.progress.message(text)
        save_initial(config, assembly, folder)
        self._call("run_started", folder=folder.path, config=dict(config.resolved))
        status = "failed"
        try:
            self._stages(assembly, datasets, folder)
            status = "completed"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            self.results.update(status=status, seconds=round(time.perf_counter() - started, 3))
            folder.write_json("results.json", self.results)
            report = self._report(folder)
            self._call("run_ended", folder=folder.path, status=status)
        self.progress.run_ended(self.results["rows"], report)
        return folder.path

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

    def _stages(self, assembly: Assembly, datasets: Datasets, folder: RunFolder) -> None:
        board = TensorBoard(folder.path / "tensorboard")

        def epoch_ended(record: EpochRecord) -> None:
            folder.append_metrics(record.as_line())
            board.write(record.stage.name, record.step, record.metrics, record.lr)
            self.progress.epoch_ended(record.epoch, record.metrics, record.lr)
            name, metrics = record.stage.name, dict(record.metrics)
            self._call("epoch_ended", folder=folder.path, stage=name, epoch=record.epoch, metrics=metrics)

        try:
            for stage in self.config.stages:
                self.progress.stage_started(stage.index)
                judged = frozenset(row["model"] for row in self.results["rows"])
                loaders = StageLoaders(self.config, stage, datasets)
                live = StageRun(self.config, stage, assembly, loaders, folder, self.progress, epoch_ended)
                try:
                    result = live.run(judged_before=judged)
                except KdcoreError as error:
                    raise error.at(stage.place) from error
                self.results["stages"].append(result.summary)
                self.results["rows"].extend(result.rows)
                self.results["warnings"].extend(result.warnings)
                folder.write_json("results.json", self.results)
                self.progress.stage_ended(_told(result.rows))
        finally:
            board.close()

    def _call(self, name: str, **arguments: Any) -> None:
        """Tell every plugin that wants to know; one that fails or draws random numbers changes nothing."""
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
