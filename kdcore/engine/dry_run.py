"""`kd validate --dry-run`: push one batch through every stage and leave nothing changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from kdcore.config.config import Config, StageConfig
from kdcore.engine.cache.caches import StageCaches
from kdcore.engine.data import Datasets
from kdcore.engine.device import choose_device, device_errors
from kdcore.engine.judged import find_judged
from kdcore.engine.memory import Memory
from kdcore.engine.pruning import StagePruning
from kdcore.engine.pruning_plan import PruningPlan
from kdcore.engine.remainder import check_remainders
from kdcore.engine.stage import StageLoaders, wire_stage
from kdcore.engine.steps import check_accumulation, make_optimizer, steps_per_epoch
from kdcore.pipeline.assembly import Assembly
from kdcore.pipeline.objective import Objective
from kdcore.pipeline.probe import undone
from kdcore.pipeline.randomness import derive_seed, forked_generators
from kdcore.pipeline.readable import check_readable
from kdcore.pipeline.wire import Wiring


@dataclass(frozen=True)
class TermReport:
    """One term on one batch: its value, and the norm of its gradient in everything trainable."""

    name: str
    value: float
    gradient_norm: float


@dataclass(frozen=True)
class StageReport:
    """What a dry run saw of a stage."""

    stage: str
    terms: list[TermReport]
    trainable: dict[str, int]
    frozen: list[str]
    unreached: list[str]
    epochs: int
    steps_per_epoch: int
    pruning: PruningPlan | None = None


def dry_run(config: Config, *, console: Console | None = None) -> list[StageReport]:
    """Build everything, push one batch through every stage and report; raises what a run would raise."""
    device = choose_device(config.device, config.place("device"))
    datasets = Datasets(config.data)
    with forked_generators(), device_errors():
        assembly = Assembly.build(config, device)
        reports = []
        for text in assembly.loaded.values():
            if console is not None:
                console.print(text, markup=False)
        for stage in config.stages:
            report = rehearse(config, stage, assembly, datasets, gradients=True)
            reports.append(report)
            if console is not None:
                _show(report, console)
    return reports


def rehearse(
    config: Config, stage: StageConfig, assembly: Assembly, datasets: Datasets, *, gradients: bool
) -> StageReport:
    """Wire a stage as a run would and undo it, so that a late stage's mistake shows before the first trains.

    Afterwards the assembly counts what the stage trains as trained; `gradients` also measures each term.
    """
    loaders = StageLoaders(config, stage, datasets)
    assembly.begin(stage)
    with Memory(assembly, stage):
        wiring, batch = wire_stage(stage, assembly, loaders, assembly.device)
        try:
            return _rehearsed(config, stage, assembly, loaders, wiring, batch, gradients=gradients)
        finally:
            wiring.objective.close()


def _rehearsed(
    config: Config,
    stage: StageConfig,
    assembly: Assembly,
    loaders: StageLoaders,
    wiring: Wiring,
    batch: dict[str, Any],
    *,
    gradients: bool,
) -> StageReport:
    objective = wiring.objective
    find_judged(config, stage, assembly, loaders.by_role, objective, batch)
    check_accumulation(stage, objective, batch)
    check_remainders(config, stage, loaders, objective, assembly.device)
    StageCaches(config, stage, assembly, loaders.by_role, objective).check()
    make_optimizer(config, stage, objective, loaders.train)
    check_readable(objective, config, stage)
    terms = _term_reports(config, stage, objective, batch) if gradients else []
    trainable: dict[str, int] = {}
    for name, parameter in objective.named_trainable():
        head = ".".join(name.split(".")[: 2 if name.startswith("losses.") else 1])
        trainable[head] = trainable.get(head, 0) + parameter.numel()
    frozen = sorted(set(config.models) - set(stage.train))
    assembly.trained.update(stage.train)
    steps, epochs = steps_per_epoch(stage, loaders.train), stage.epochs or 1
    pruning = StagePruning(config, stage, objective, batch, steps) if stage.pruning else None
    if pruning is not None:
        pruning.check_readable()
    plan = PruningPlan.of(pruning) if pruning is not None else None
    return StageReport(stage.name, terms, trainable, frozen, wiring.unreached, epochs, steps, plan)


def _term_reports(config: Config, stage: StageConfig, objective: Objective, batch: dict[str, Any]) -> list[TermReport]:
    parameters = [parameter for _, parameter in objective.named_trainable()]
    reports = []
    # A real backward pass per term, because reentrant checkpoints refuse anything less.
    with undone([objective], derive_seed(config.seed, "probe", stage.name)):
        objective.train()
        for name, value in objective.term_values(batch).items():
            for parameter in parameters:
                parameter.grad = None
            if value.requires_grad:
                value.backward(retain_graph=True)  # type: ignore[no-untyped-call]
            squares = [float(each.grad.double().square().sum()) for each in parameters if each.grad is not None]
            norm = sum(squares) ** 0.5
            reports.append(TermReport(name, float(value.detach()), norm))
    return reports


def _show(report: StageReport, console: Console) -> None:
    table = Table(title=f"stage {report.stage}", title_justify="left", header_style="bold")
    table.add_column("term")
    table.add_column("value", justify="right")
    table.add_column("gradient norm", justify="right")
    for term in report.terms:
        table.add_row(term.name, f"{term.value:.6g}", f"{term.gradient_norm:.6g}")
    console.print(table)
    counted = ", ".join(f"{name} ({count:,} parameters)" for name, count in report.trainable.items())
    console.print(f"trains {counted}", markup=False)
    if report.frozen:
        console.print(f"frozen: {', '.join(report.frozen)}", markup=False)
    if report.unreached:
        console.print(f"no gradient reaches, so left as they are: {', '.join(report.unreached)}", markup=False)
    if report.pruning:
        report.pruning.show(console)
