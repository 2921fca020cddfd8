"""What the report, the display and the table of results say of sparsity."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kdcore.engine.measure import MetricName
from kdcore.engine.progress.interface import StagePlan
from kdcore.engine.progress.live import LiveProgress
from kdcore.engine.progress.plain import PlainProgress
from kdcore.engine.progress.table import plain_table, result_columns
from kdcore.engine.report.record import Stage, read_record
from kdcore.engine.report.sparsity import layer_bars, sparsity_charts
from kdcore.engine.row import parse_rows
from tests.engine.test_report import CONFIG, Page, epoch_line, lines, report, results, rows, write_run

LAYERS = {"student.block1.conv": 0.25, "student.fc1": 0.9}


def pruned_line(epoch: int, layers: dict[str, float]) -> dict[str, Any]:
    share = epoch / 4
    line = epoch_line("distill", epoch, 3, train__loss=1.0, val__student__accuracy=1 - share / 2)
    line["metrics"] |= {"sparsity": share} | {f"sparsity/{name}": each * share for name, each in layers.items()}
    return line


def pruned_stage(layers: dict[str, float]) -> Stage:
    return Stage("distill", "distill", 3, lines={epoch: pruned_line(epoch, layers) for epoch in (1, 2, 3)})


def test_sparsity_belongs_to_no_split() -> None:
    assert MetricName.parse("sparsity") == MetricName("", metric="sparsity")
    name = MetricName.parse("sparsity/student.block1.conv")
    assert name == MetricName("", metric="sparsity", layer="student.block1.conv")


def test_a_stage_that_prunes_has_charts_and_bars() -> None:
    stage = pruned_stage(LAYERS)
    over_time, against = sparsity_charts(stage)
    assert over_time is not None
    assert against is not None
    assert [curve.label for curve in over_time.curves] == ["all pruned layers", *LAYERS]
    assert over_time.curves[0].dots[2].title == "all pruned layers, epoch 3: 75.00 %"
    assert against.title == "Accuracy against sparsity"
    assert [dot.title for dot in against.curves[0].dots][1:] == [
        "val, student, epoch 2, 50.00 %: 75.00 %",
        "val, student, epoch 3, 75.00 %: 62.50 %",
    ]
    # More sparse is further right, and less accurate is further down.
    dots = against.curves[0].dots
    assert [one.x < two.x and one.y < two.y for one, two in pairwise(dots)] == [True, True]
    assert [(bar.name, round(bar.percent, 2)) for bar in layer_bars(stage)] == [
        ("student.block1.conv", 18.75),
        ("student.fc1", 67.5),
    ]


def test_a_stage_that_does_not_prune_has_none() -> None:
    stage = Stage("alone", "alone", 3, lines={1: epoch_line("alone", 1, 3, val__student__accuracy=0.5)})
    assert sparsity_charts(stage) == []
    assert layer_bars(stage) == ()


def test_of_many_layers_those_that_stand_out_are_drawn() -> None:
    stage = pruned_stage({f"student.{place}": place / 50 for place in range(50)})
    over_time, _ = sparsity_charts(stage)
    assert over_time is not None
    assert [curve.label for curve in over_time.curves[1:]] == [f"student.{place}" for place in (0, 1, 2, 47, 48, 49)]
    assert len(layer_bars(stage)) == 40


def test_the_report_shows_them(tmp_path: Path) -> None:
    told = [{**row, **({"sparsity": 0.75} if row["stage"] == "distill" else {})} for row in rows()]
    epochs = [line for line in lines() if line["stage"] != "distill"] + [
        pruned_line(each, LAYERS) for each in (1, 2, 3)
    ]
    config = CONFIG.replace("{name: distill,", "{name: distill, pruning: {target_sparsity: 0.75},")
    folder = write_run(tmp_path, results(told), epochs, config)
    page = report(folder)
    text = Page(page).text
    for shown in ("Accuracy against sparsity", "Sparsity by layer", "student.block1.conv", "67.5 %", "75.00 %"):
        assert shown in text
    assert 'aria-label="Accuracy against sparsity"' in page
    assert text.count("sparsity") >= 2
    assert read_record(folder).rows[-1].sparsity == 0.75


def test_the_table_of_results_has_a_column_where_something_is_pruned() -> None:
    told = [{**row, **({"sparsity": 0.8} if row["stage"] == "distill" else {})} for row in rows()]
    heading, _, *body = plain_table(result_columns(parse_rows(told), 120)[0])
    assert "sparsity" in heading
    assert ["80.00 %" in line for line in body] == [False, False, True]
    assert "sparsity" not in plain_table(result_columns(parse_rows(rows()), 120)[0])[0]


@pytest.mark.parametrize("kind", [PlainProgress, LiveProgress])
def test_the_progress_shows_the_total_and_no_layer(kind: Any, tmp_path: Path) -> None:
    written = io.StringIO()
    console = Console(file=written, width=100, force_terminal=kind is LiveProgress, color_system=None)
    progress = kind(console, lambda: 0.0)
    progress.run_started("r", tmp_path, [StagePlan("s", "s", 2, 3)])
    progress.stage_started(0)
    progress.epoch_started(0)
    metrics = {"train/loss": 1.0, "val/student/accuracy": 0.5, "sparsity": 0.625, "sparsity/student.fc": 0.7}
    progress.epoch_ended(0, metrics, [0.1])
    progress.close()
    shown = written.getvalue().replace("\N{NO-BREAK SPACE}", " ")
    assert "sparsity 62.50 %" in shown
    assert "student.fc" not in shown
