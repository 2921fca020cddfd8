"""`kd export`: from a run folder to a folder with a smaller model, and the table that says what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kdcore.compaction.compact import CompactModel, compact
from kdcore.compaction.report import Report
from kdcore.compaction.saved import RECORD, WEIGHTS, check_folder, write
from kdcore.compaction.semi_structured import Pattern, convert_and_check, find_pattern, missing_support
from kdcore.compaction.trained import Trained, read_trained
from kdcore.config.config import Config
from kdcore.engine.folder import RunFolder
from kdcore.engine.measure import MISSING, show_bytes, show_count, show_number

BATCHES = 4
_SHOWN = 8


def export_compact(
    run: Path, config: Config, model: str | None, stage: str | None, output: Path | None, console: Console
) -> Path:
    """Write a physically smaller model with the outputs of the run's, and print what it costs.

    Raises:
        KdcoreError: there is nothing to remove, or it cannot be done; then nothing is written.
    """
    trained, folder = _read(run, config, model, stage, output, "compact")
    first, *others = trained.calls
    result = compact(trained.module, first, check_inputs=others)
    result.save(folder, type=trained.type, params=trained.params)
    _show(result, trained, folder, console)
    return folder


def export_semi_structured(
    run: Path, config: Config, model: str | None, stage: str | None, output: Path | None, console: Console
) -> Path:
    """Write the model with its 2:4 layers named, and convert them where the device can, to see what they are worth.

    The weights are written with zeros in place: the packed form depends on the device and on torch's backend.

    Raises:
        KdcoreError: no layer is 2:4; then nothing is written.
    """
    trained, folder = _read(run, config, model, stage, output, "2to4")
    pattern = find_pattern(trained.module)
    lacking = missing_support()
    done = None if lacking else convert_and_check(trained.module, pattern.layers, trained.calls)
    layers = pattern.layers if done is None else done.layers
    record = {"modules": {}, "semi_structured": layers, "report": asdict(done) if done is not None else None}
    write(folder, trained.module, record, trained.type, trained.params)
    _say(console, f"{trained.name} of {run}: {len(layers)} linear layers are 2:4: {_listed(layers)}")
    _show_others(pattern, console)
    if done is None:
        _say(
            console,
            f"not converted: torch's semi-structured tensors need a CUDA device of compute capability 8.0 or newer, "
            f"and {lacking}. The zeros are in place in {folder / WEIGHTS}; "
            f"kdcore.load_compact({str(folder)!r}, semi_structured=True) converts on such a device",
        )
        return folder
    for name, problem in done.refused.items():
        _say(console, f"{name} stays dense: {problem}")
    _say(
        console,
        f"in half precision a batch takes {show_number(done.after_ms)} ms, dense {show_number(done.before_ms)} ms; the "
        f"largest difference of outputs is {done.difference:.1e} of the largest output",
    )
    _say(console, f"written to {folder}; kdcore.load_compact({str(folder)!r}, semi_structured=True) reads it")
    return folder


def _read(
    run: Path, config: Config, model: str | None, stage: str | None, output: Path | None, kind: str
) -> tuple[Trained, Path]:
    if output is not None:
        check_folder(output)
    trained = read_trained(RunFolder(run), config, model, stage, BATCHES)
    folder = output or run / f"{trained.name}-{kind}"
    check_folder(folder)
    return trained, folder


def _show(result: CompactModel, trained: Trained, folder: Path, console: Console) -> None:
    report = result.report
    _say(console, f"{trained.name} of {trained.weights}")
    table = _table("", "before", "after", "ratio")
    before, after = report.before, report.after
    sizes = trained.weights.stat().st_size, (folder / WEIGHTS).stat().st_size
    rows: list[tuple[str, Any, Any, Callable[[Any], str]]] = [
        ("parameters", before.parameters, after.parameters, show_count),
        ("weights file", *sizes, show_bytes),
        ("FLOPs of a sample", before.flops, after.flops, show_count),
        ("latency of a sample, ms", before.latency_ms, after.latency_ms, show_number),
    ]
    for name, old, new, show in rows:
        table.add_row(name, show(old), show(new), f"{100 * new / old:.0f} %" if old else MISSING)
    console.print(table, "")
    console.print(_changes(report), "")
    for text in (*report.messages, *_remarks(report)):
        _say(console, text)
    on = f"{report.batches} batch" + ("es" if report.batches > 1 else "")
    _say(console, f"the largest difference of outputs on {on} is {report.difference:.1e} of the largest output")
    _say(console, f"written to {folder} ({WEIGHTS}, {RECORD}); kdcore.load_compact({str(folder)!r}) reads it")


def _changes(report: Report) -> Table:
    table = _table("module", "what", "before", "after")
    for each in report.changes:
        table.add_row(each.module or "the model", each.what, str(each.before), str(each.after))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in ("before", "after", "ratio") else "left")
    return table


def _remarks(report: Report) -> Sequence[str]:
    remarks = []
    if report.folded:
        remarks.append(f"constants of removed outputs were added to {_listed(report.folded)}")
    if report.stay:
        some = _listed([f"{name} ({count})" for name, count in report.stay.items()])
        remarks.append(f"outputs of zeros that have to stay, because what they are added to or emit is needed: {some}")
    return remarks


def _show_others(pattern: Pattern, console: Console) -> None:
    if pattern.others:
        some = _listed([f"{name} ({broken} of {groups} groups)" for name, (broken, groups) in pattern.others.items()])
        _say(console, f"not 2:4, so they stay dense: {some}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f", ... ({len(names)} in all)" if len(names) > _SHOWN else "")
