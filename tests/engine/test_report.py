from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from kdcore.engine.report import write_report
from kdcore.engine.report.classes import class_changes
from kdcore.engine.report.comparison import compare, distils
from kdcore.engine.report.page import highlight
from kdcore.engine.report.record import read_record
from kdcore.engine.report.story import tell
from kdcore.errors import RunError

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>{{ 7 * 7 }}"""

CONFIG = """\
name: digits-kd
seed: 7
models:
  teacher: {type: cnn, params: {width: 64}}
  student: {type: cnn, params: {width: 8}}
stages:
  - {name: teacher, train: [teacher], losses: {ce: {type: cross_entropy, inputs: {input: teacher}}}}
  - {name: alone, train: [student], losses: {ce: cross_entropy}}
  - {name: distill, train: [student], losses: {ce: cross_entropy, kd: {type: kd, weight: 0.9}}}
"""


def row(stage: str, model: str, parameters: int | None, latency: float | None, **metrics: float) -> dict[str, Any]:
    title = {"alone": "student alone", "distill": "student, distilled"}.get(stage, stage)
    return {"stage": stage, "title": title, "model": model, "split": "test", "metrics": metrics} | {
        "parameters": parameters,
        "latency_ms": latency,
        "latency_batch": 1,
        "per_class": None,
    }


def rows(teacher: float = 0.977, alone: float = 0.912, distilled: float = 0.946) -> list[dict[str, Any]]:
    return [
        row("teacher", "teacher", 1_200_000, 4.2, accuracy=teacher),
        row("alone", "student", 21_000, 0.5, accuracy=alone),
        row("distill", "student", 21_000, 0.5, accuracy=distilled),
    ]


def epoch_line(stage: str, epoch: int, epochs: int, **metrics: float) -> dict[str, Any]:
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    return {"stage": stage, "stage_index": 0, "epoch": epoch - 1, "epochs": epochs, "step": 10 * epoch} | {
        "seconds": 1.5,
        "lr": [0.1 / epoch],
        "metrics": named,
    }


def lines() -> list[dict[str, Any]]:
    return [
        epoch_line(
            stage,
            epoch,
            3,
            train__loss=3 / epoch,
            train__losses__ce=1 / epoch,
            train__losses__kd=2 / epoch,
            val__loss=4 / epoch,
            **{f"train__{model}__accuracy": 1 - 0.3 / epoch, f"val__{model}__accuracy": 1 - 0.4 / epoch},
        )
        for stage, model in (("teacher", "teacher"), ("alone", "student"), ("distill", "student"))
        for epoch in (1, 2, 3)
    ]


def stage(name: str, **changes: Any) -> dict[str, Any]:
    told = {"name": name, "title": name, "epochs": 3, "best_epoch": 1, "selected_by": "val/student/accuracy"}
    return told | {"losses": {"ce": {"type": "cross_entropy", "weight": 1.0}}} | changes


def results(rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    stages = [stage("teacher"), stage("alone"), stage("distill")]
    return {"status": "completed", "seconds": 100.0, "stages": stages, "rows": rows} | changes


def write_run(folder: Path, result: dict[str, Any] | None, epochs: list[dict[str, Any]], config: str = CONFIG) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(config)
    environment = {"python": "3.11.7", "torch": "2.6.0+cpu", "kdcore": "0.1.0", "threads": 2, "git": None}
    environment |= {"plugins": [{"distribution": "kd-plugin-kd", "version": "0.3.0"}], "started": "2025-01-02T03:04:05"}
    environment |= {"command": ["/opt/venv/bin/kd", "run", "my config.yaml", "--set", "seed=7"]}
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in epochs))
    if result is not None:
        (folder / "results.json").write_text(json.dumps(result))
    return folder


def report(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def headline(folder: Path, result: dict[str, Any], config: str = CONFIG) -> str:
    return tell(read_record(write_run(folder, result, lines(), config))).headline


class Page(HTMLParser):
    """Collects the page's tags, attributes and text, and checks that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def test_the_report_tells_the_whole_story(tmp_path: Path) -> None:
    page = Page(report(write_run(tmp_path, results(rows()), lines())))
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    for expected in (
        "Distillation raised the student's test accuracy from 91.2 % to 94.6 %, closing 52 % of the gap to the "
        "teacher, at 1/57 of its parameters.",
        "+3.4 points",
        "1,200,000",
        "Held-out accuracy, stage by stage",
        "Losses by term, train",
        "Learning rate",
        "best: 2",
        "kd run 'my config.yaml' --set seed=7",
        "pip install torch==2.6.0 kdcore==0.1.0 kd-plugin-kd==0.3.0",
        "Seed: 7",
        "width: 64",
    ):
        assert expected in text
    assert page.tags.count("svg") == 1 + 3 * 4
    assert "notes" not in dict(page.attributes).values()


def test_the_same_folder_gives_the_same_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path, results(rows()), lines())
    first = report(folder)
    assert report(folder) == first
    assert sorted(path.name for path in folder.iterdir()) == [
        *("config.yaml", "environment.json", "metrics.jsonl", "report.html", "results.json")
    ]


def test_the_report_loads_nothing(tmp_path: Path) -> None:
    html = report(write_run(tmp_path, results(rows()), lines()))
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "image", "use"} & set(page.tags)
    assert not {"src", "href", "srcset", "xlink:href", "onload"} & {name for name, _ in page.attributes}
    assert "url(" not in html
    assert "@import" not in html
    assert "://" not in html
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_names_from_the_run_are_only_ever_text(tmp_path: Path) -> None:
    result = results(
        [
            row("alone", HOSTILE, 9, 1.0, **{HOSTILE: 0.5, "accuracy": 0.5}) | {"title": HOSTILE},
            row("distill", HOSTILE, 9, 1.0, accuracy=0.75) | {"title": HOSTILE, "split": HOSTILE},
            row("distill", "b", 9, 1.0, accuracy=0.75) | {"per_class": classes([0.5, 1.0], names=[HOSTILE, "b"])},
        ],
        status=HOSTILE,
        warnings=[HOSTILE],
        stages=[stage(HOSTILE, title=HOSTILE, selected_by=HOSTILE, losses={HOSTILE: {"type": HOSTILE}})],
    )
    epochs = [epoch_line(HOSTILE, 1, 1, **{f"val__{HOSTILE}__{HOSTILE}": 0.5, f"train__losses__{HOSTILE}": 0.5})]
    folder = write_run(tmp_path, result, epochs, f"name: {json.dumps(HOSTILE)}\n{HOSTILE}: 1 # {HOSTILE}\n# {HOSTILE}")
    environment = {HOSTILE: HOSTILE, "plugins": [{"distribution": HOSTILE, "version": HOSTILE}], "command": [HOSTILE]}
    (folder / "environment.json").write_text(json.dumps(environment))
    page = Page(report(folder))
    assert not {"script", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count("{{ 7 * 7 }}") > 10
    assert "alert(1)49" not in page.text


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        (
            (0.971, 0.946, 0.912),
            "Distillation did not help: it lowered the student's test accuracy from 94.6 % to 91.2 %; "
            "the teacher reaches 97.1 %.",
        ),
        (
            (0.95, 0.912, 0.96),
            "Distillation raised the student's test accuracy from 91.2 % to 96.0 %, better than the teacher's 95.0 %, "
            "at 1/57 of its parameters.",
        ),
        ((0.971, 0.9, 0.9), "Distillation left the student's test accuracy at 90.0 %; the teacher reaches 97.1 %."),
        (
            (0.9712, 0.9461, 0.9463),
            "Distillation raised the student's test accuracy from 94.61 % to 94.63 %, closing 1 % of the gap to the "
            "teacher, at 1/57 of its parameters.",
        ),
    ],
)
def test_the_headline_is_honest(tmp_path: Path, accuracies: tuple[float, float, float], expected: str) -> None:
    assert headline(tmp_path, results(rows(*accuracies))) == expected


def test_two_stages_without_a_teacher_are_not_called_distillation(tmp_path: Path) -> None:
    config = CONFIG.replace(", kd: {type: kd, weight: 0.9}", "")
    assert headline(tmp_path, results(rows()[1:]), config) == (
        "Stage distill, after alone, raised the student's test accuracy from 91.2 % to 94.6 %."
    )


def test_pruning_is_named_where_it_took_part(tmp_path: Path) -> None:
    config = CONFIG.replace("{name: distill,", "{name: distill, pruning: {criterion: magnitude},")
    assert headline(tmp_path, results(rows()[1:]), config).startswith("Pruning while distilling raised")


def test_two_models_are_compared_where_there_is_no_earlier_stage(tmp_path: Path) -> None:
    assert headline(tmp_path, results([rows()[0], rows()[2]])) == (
        "The student reaches a test accuracy of 94.6 %, against the teacher's 97.7 %, at 1/57 of its parameters."
    )


def test_a_single_row_is_told_plainly(tmp_path: Path) -> None:
    assert headline(tmp_path, results(rows()[2:])) == "The student reaches a test accuracy of 94.6 %."
    assert "The run is still going, or was killed." in headline(tmp_path, results(rows()[2:], status="running"))
    assert "Then the run failed." in headline(tmp_path, results(rows()[2:], status="failed"))


def test_of_a_language_model_less_loss_is_better(tmp_path: Path) -> None:
    found = [
        row("teacher", "teacher", 124_000_000, 40.0, loss=2.5, perplexity=12.2),
        row("alone", "student", 60_000_000, 20.0, loss=3.5, perplexity=33.1),
        row("distill", "student", 60_000_000, 20.0, loss=3.0, perplexity=20.1),
    ]
    result = results(found, stages=[stage("distill", selected_by="val/loss")])
    folder = write_run(tmp_path, result, [epoch_line("distill", 1, 1, val__loss=3.1, val__student__perplexity=21.0)])
    assert tell(read_record(folder)).headline == (
        "Distillation lowered the student's test loss from 3.500 to 3.000, closing 50 % of the gap to the teacher, "
        "at 1/2.1 of its parameters."
    )
    page = Page(report(folder))
    assert ("aria-label", "Perplexity by epoch") in page.attributes
    assert "33.10" in page.text


@pytest.mark.parametrize(
    ("losses", "train", "expected"),
    [
        ("{ce: cross_entropy}", "[student]", False),
        ("{ce: {type: 'kd-plugin-torch:cross_entropy'}}", "[student]", False),
        ("{kd: kd}", "[student]", True),
        ("{hint: {type: mse, inputs: {input: student:a, target: 'teacher:b@input#0'}}}", "[student]", True),
        ("{hint: {type: mse, inputs: {input: [student:a], target: [teacher]}}}", "[student, teacher]", False),
        ("{student.loss: {type: whatever}}", "[student]", False),
        ("{ce: cross_entropy, kd: {type: kd, enabled: false}}", "[student]", False),
    ],
)
def test_a_stage_distils_if_a_term_looks_at_a_model_that_is_not_trained(
    tmp_path: Path, losses: str, train: str, expected: bool
) -> None:
    config = f"models: {{teacher: t, student: s}}\nstages: [{{name: s, train: {train}, losses: {losses}}}]"
    assert distils(read_record(write_run(tmp_path, None, [], config)), "s") is expected


def classes(accuracy: list[float | None], count: int = 50, names: list[str] | None = None) -> dict[str, Any]:
    named = names or [str(place) for place in range(len(accuracy))]
    return {"names": named, "accuracy": accuracy, "count": [count] * len(accuracy)}


def test_classes_are_compared_one_by_one(tmp_path: Path) -> None:
    teacher, alone, distilled = rows()
    teacher["per_class"] = classes([0.98, 0.96, None])
    alone["per_class"] = classes([0.90, 0.95, None])
    distilled["per_class"] = classes([0.97, 0.92, None])
    folder = write_run(tmp_path, results([teacher, alone, distilled]), lines())
    found = class_changes(compare(read_record(folder)))
    assert found is not None
    assert [(line.name, round(line.change, 6), line.reference) for line in found.lines] == [("0", 7, 98), ("1", -3, 96)]
    assert (found.low, found.at(90), found.at(95), found.at(100)) == (90, 0, 50, 100)
    text = Page(report(folder)).text
    assert "+7.0" in text
    assert "-3.0" in text
    assert "The change of +3.4 points is smaller than the uncertainty of 150 test samples" in text


def test_of_many_classes_those_that_changed_most_are_shown(tmp_path: Path) -> None:
    _, alone, distilled = rows()
    alone["per_class"] = classes([0.5] * 101)
    distilled["per_class"] = classes([0.5 + (place - 50) / 200 for place in range(101)])
    found = class_changes(compare(read_record(write_run(tmp_path, results([alone, distilled]), []))))
    assert found is not None
    assert [line.name for line in found.lines] == [str(place) for place in [*range(100, 85, -1), *range(14, -1, -1)]]
    assert found.left_out == 71


def test_a_change_beyond_the_uncertainty_is_not_doubted(tmp_path: Path) -> None:
    found = [each | {"per_class": classes([0.9, 0.9], count=10_000)} for each in rows()]
    assert "uncertainty" not in report(write_run(tmp_path, results(found), lines()))


def test_an_interrupted_run_gives_a_report_that_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path, None, lines()[:8])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "distill", "stage_ind')
    text = Page(report(folder)).text
    assert "The run digits-kd got to epoch 2 of 3 of stage distill and has no final result." in text
    assert "results.json is missing: the run was interrupted, or is still going" in text
    assert "metrics.jsonl: line 9 could not be read and was left out" in text
    assert "Stage distill stopped after epoch 2 of 3." in text
    assert "The run left no results on held-out data." in text


def test_values_that_are_not_finite_break_the_curve_and_are_reported(tmp_path: Path) -> None:
    epochs = lines()
    epochs[1]["metrics"]["train/loss"] = math.nan
    epochs[2]["metrics"]["val/loss"] = math.inf
    text = report(write_run(tmp_path, results(rows()), epochs))
    assert "Stage teacher: train/loss was not a finite number in epoch 2." in text
    assert "Stage teacher: val/loss was not a finite number in epoch 3." in text
    assert not re.search(r'="[^"]*\b(nan|inf)\b[^"]*"', text)


def test_a_stage_with_no_or_one_epoch_is_shown(tmp_path: Path) -> None:
    result = results(rows(), stages=[stage("alone", epochs=1, best_epoch=0), stage("distill", epochs=0)])
    text = report(write_run(tmp_path, result, [epoch_line("alone", 1, 1, val__student__accuracy=0.5)]))
    assert "Stage distill has no epoch on record." in text
    assert 'r="4"' in text
    assert "still improving" not in text


def test_a_run_whose_best_epoch_is_its_last_may_want_more(tmp_path: Path) -> None:
    text = report(write_run(tmp_path, results(rows(), stages=[stage("distill", best_epoch=2)]), lines()))
    assert "Stage distill was still improving in its last epoch" in text


def test_of_an_epoch_that_a_resumed_run_repeated_the_later_line_counts(tmp_path: Path) -> None:
    epochs = [epoch_line("s", 1, 2, val__loss=9.0), epoch_line("s", 2, 2, val__loss=8.0)]
    epochs += [epoch_line("s", 2, 2, val__loss=1.0)]
    record = read_record(write_run(tmp_path, None, epochs))
    assert record.stages[0].curves() == {"val/loss": [(1, 9.0), (2, 1.0)]}


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "metrics.jsonl", "results.json"])
@pytest.mark.parametrize("damage", [None, "", "{", "[1]", "null", '{"rows": 3, "stages": {}, "plugins": "x"}', "\x00"])
def test_damage_to_one_file_costs_only_that_file(tmp_path: Path, name: str, damage: str | None) -> None:
    folder = write_run(tmp_path, results(rows()), lines())
    if damage is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(damage)
    html = report(folder)
    assert Page(html).text.count("Results") == 1
    if name != "metrics.jsonl":
        assert "Held-out accuracy, stage by stage" in html
    if damage is None:
        assert f"{name} is missing: " in html


def test_a_config_that_is_no_yaml_is_shown_as_text(tmp_path: Path) -> None:
    text = Page(report(write_run(tmp_path, results(rows()), [], "a: [1\nb: '2024-99-99"))).text
    assert "config.yaml is damaged: it is shown as text, but not understood" in text
    assert "b: '2024-99-99" in text


def test_a_folder_that_is_no_run_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run folder: found an empty or foreign folder(.|\n)*kd run"):
        write_report(tmp_path)
    with pytest.raises(RunError, match="found nothing"):
        write_report(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    folder = write_run(tmp_path, results(rows()), lines())
    (folder / "report.html").mkdir()
    with pytest.raises(RunError, match=r"report.html' cannot be written: Is a directory"):
        write_report(folder)


def test_yaml_keys_and_comments_are_marked() -> None:
    assert highlight("# why\na: {b: 1}  # <x>\n- 'c: d': &e\n  - type: kd\nurl:x") == (
        '<span class="comment"># why</span>\n<span class="key">a:</span> {b: 1}  # &lt;x&gt;\n'
        '- <span class="key">&#39;c: d&#39;:</span> &amp;e\n  - <span class="key">type:</span> kd\nurl:x'
    )
