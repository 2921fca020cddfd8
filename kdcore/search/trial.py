"""One trial: an ordinary run in a folder of its own, and what came of it."""

from __future__ import annotations

import json
import math
import shutil
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from kdcore.advice import Command
from kdcore.config.config import Config
from kdcore.engine.device import choose_device
from kdcore.engine.folder import RunFolder
from kdcore.engine.interrupt import Interrupted
from kdcore.engine.lock import LOCK
from kdcore.engine.run import run
from kdcore.errors import ConfigError, KdcoreError
from kdcore.pipeline.diagnosis import of_memory
from kdcore.plugins import Registry, registry
from kdcore.search.job import OUTCOME, Channel, Job, Outcome
from kdcore.search.measures import FLOPS, LATENCY, measure
from kdcore.search.record import State
from kdcore.search.reporter import Reporter, Stopped
from kdcore.search.trial_config import load_trial

# Longer than a process whose search was killed takes to notice.
_LOCK_WAIT_S = 30.0


class Infeasible(Exception):  # noqa: N818 - no error: the search has no use for the point
    """The point breaks a constraint that can be judged before training."""


def run_trial(job: Job, channel: Channel) -> Outcome:
    """Train what a job describes, or go on with it, and return how it ended; whatever fails is an outcome too."""
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    trial = _Trial(job, channel, folder)
    try:
        outcome = trial.run()
    except Infeasible:
        outcome = trial.outcome(State.INFEASIBLE)
    except Stopped:
        outcome = trial.outcome(State.STOPPED)
    except Interrupted:
        return trial.outcome(None)
    except Exception as error:  # a trial may fail in any way; the search goes on and keeps the reason
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        outcome = trial.outcome(State.FAILED, _reason(error))
    # What is kept here is not trained again, even if the search dies before it has heard of it.
    RunFolder(folder).write_json(OUTCOME, asdict(outcome))
    if not job.keep_states and job.prelude is None:
        _drop_states(folder)
    return outcome


class _Trial:
    def __init__(self, job: Job, channel: Channel, folder: Path) -> None:
        self.job = job
        self.channel = channel
        self.folder = folder
        self.started = time.perf_counter()
        self.measures: dict[str, float] = {}
        self.reporter = Reporter(channel, folder / "messages.txt")
        self.config: Config | None = None

    def run(self) -> Outcome:
        job = self.job
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        plugins = registry_with(job.plugins)
        config = self.config = load_trial(Path(job.config), job.overrides, plugins, job.prelude)
        if job.slot and config.device in ("auto", "cuda") and torch.cuda.device_count() > 1:
            torch.cuda.set_device(job.slot % torch.cuda.device_count())
        self._measure(config)
        self._await_lock()
        advice = Command("run", job.plugins)
        run(config, progress=self.reporter, registry=plugins, resume=self.folder, advice=advice)
        return self.outcome(State.COMPLETE)

    def _measure(self, config: Config) -> None:
        device = choose_device(config.device, config.place("device"))
        for prefix, name in self.job.measured:
            wanted = {FLOPS} & self._required(prefix)
            self.measures |= _prefixed(prefix, measure(config, name, device, wanted))
        if self.measures and not self.channel.ask("measured", self.measures):
            raise Infeasible

    def _required(self, prefix: str) -> set[str]:
        return {name.removeprefix(prefix) for name in self.job.required if name.startswith(prefix)}

    def _await_lock(self) -> None:
        """Wait until the process that had this trial before, whose search was killed, has ended."""
        lock = FileLock(self.folder / LOCK, timeout=_LOCK_WAIT_S)
        try:
            lock.acquire()
        except Timeout:
            return  # the run says what is wrong
        lock.release()

    def outcome(self, state: State | None, reason: str | None = None) -> Outcome:
        """Return how the trial ended, with all that was measured until then."""
        metrics: dict[str, float] = dict(self.measures)
        if self.config is not None:
            metrics |= read_metrics(self.folder, self.config)
            if state is State.COMPLETE:
                metrics |= self._latency(self.config)
        seconds = RunFolder(self.folder).seconds() or time.perf_counter() - self.started
        return Outcome(state, metrics, reason, round(seconds, 3), self.reporter.epochs or None)

    def _latency(self, config: Config) -> dict[str, float]:
        found = {}
        for prefix, name in self.job.measured:
            latency = _measured_latency(self.folder, name)
            if latency is None and LATENCY in self._required(prefix):
                device = choose_device(config.device, config.place("device"))
                latency = measure(config, name, device, {LATENCY})[LATENCY]
            if latency is not None:
                found[f"{prefix}{LATENCY}"] = latency
        return found


def _drop_states(folder: Path) -> None:
    """Remove the states of training, of which a search would leave very many; weights and results stay."""
    for path in (folder / "checkpoints").glob("*/*epoch-*"):
        shutil.rmtree(path, ignore_errors=True)


def registry_with(files: tuple[str, ...]) -> Registry:
    """Return the installed plugins and those in plugin files."""
    found = registry()
    for file in files:
        found.load_file(file)
    return found


def read_metrics(folder: Path, config: Config) -> dict[str, float]:
    """Return the metrics of a run, those of a later stage before those of an earlier one.

    Of each stage they are those of the epoch whose weights were kept, and of the test split if there is one.
    """
    lines = _lines(folder / "metrics.jsonl")
    summaries = {str(each.get("name")): each for each in _results(folder).get("stages") or []}
    found: dict[str, float] = {}
    for stage in config.stages:
        # A resumed run may have written an epoch twice.
        by_epoch = {line["epoch"]: line["metrics"] for line in lines if line.get("stage") == stage.name}
        if by_epoch:
            summary: Mapping[str, Any] = summaries.get(stage.name, {})
            best = summary.get("best_epoch")
            chosen = by_epoch[best if best in by_epoch else max(by_epoch)]
            found |= {**chosen, **(summary.get("test") or {})}
    return {name: math.nan if value is None else float(value) for name, value in found.items()}


def _measured_latency(folder: Path, model: str) -> float | None:
    """Return the latency that the run has measured for its table, of the last stage that judged the model."""
    rows = [row for row in _results(folder).get("rows") or [] if row.get("model") == model]
    return rows[-1].get("latency_ms") if rows else None


def _prefixed(prefix: str, measures: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in measures.items()}


def _results(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lines(file: Path) -> list[dict[str, Any]]:
    try:
        texts = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for text in texts:
        try:
            line = json.loads(text)
        except ValueError:
            continue  # half a line
        if isinstance(line, dict) and isinstance(line.get("metrics"), dict) and isinstance(line.get("epoch"), int):
            found.append(line)
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, ConfigError):
        return "; ".join(problem.what for problem in error.problems)
    if isinstance(error, KdcoreError):
        return error.problem.what
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and of_memory(error)):
        return "out of memory"
    return f"{type(error).__name__}: {error}"
