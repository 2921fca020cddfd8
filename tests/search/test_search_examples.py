"""The searches under examples/, on a small budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdcore.search.record import State
from kdcore.search.search import Search, SearchResult

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def small(name: str, folder: Path, *overrides: str) -> SearchResult:
    """Run an example with few trials of one epoch, two steps each."""
    file = ROOT / "examples" / "search" / name
    epochs = [f"stages.{index}.{each}" for index in range(2) for each in ("epochs=1", "steps_per_epoch=2")]
    return Search(file, overrides=[*epochs, *overrides], output_dir=folder, quiet=True).run()


def test_the_digits_search_finds_a_front_of_three_objectives(tmp_path: Path) -> None:
    result = small("digits.yaml", tmp_path, "search.max_trials=4", "search.trial={stages.distilled.steps_per_epoch: 1}")
    assert sum(trial.state is State.COMPLETE for trial in result.trials) == 4
    assert all({"val/student/accuracy", "parameters", "flops"} <= trial.metrics.keys() for trial in result.front)
    assert 1 <= len(result.finals) <= 3
    report = (result.folder / "report.html").read_text(encoding="utf-8")
    for other in ("parameters", "flops", "latency_ms"):
        assert f"val/student/accuracy against {other}" in report


def test_the_language_model_search_tries_no_width_that_its_heads_do_not_divide(tmp_path: Path) -> None:
    result = small(
        "language_model.yaml",
        tmp_path,
        "stages.regular.epochs=1",
        "stages.regular.steps_per_epoch=2",
        "search.trial={stages.regular.steps_per_epoch: 1}",
        "search.searcher=grid",
        "search.max_trials=null",
        "search.space={models.student.params.dim: [16, 24], models.student.params.heads: [1, 3]}",
        "search.exclude=[{models.student.params.dim: 16, models.student.params.heads: 3}]",
    )
    points = [
        (trial.point["models.student.params.dim"], trial.point["models.student.params.heads"])
        for trial in result.trials
    ]
    assert points == [(16, 1), (24, 1), (24, 3)]
    assert all(trial.state is State.COMPLETE for trial in result.trials)
    # The flash stages follow the teacher, which was trained once.
    lines = (result.folder / str(result.trials[0].folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["stage"] for line in lines] == ["teacher", "hint", "regular"]
    assert len(result.finals) == 1
