"""`kd search`: usage, what it refuses before anything trains, and `--show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdcore.search.search import Search

from .conftest import CONFIG

SECTION = """\
search:
  space: {models.student.params.width: [1, 2]}
  objectives: [{metric: train/losses/kd, goal: minimize}]
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give a CONFIG, --resume RUN or --show RUN"),
        (["search.yaml", "--jobs", "0"], "--jobs must be 1 or more, found 0"),
        (["search.yaml", "--trials", "-1"], "--trials must be 1 or more, found -1"),
    ],
)
def test_wrong_usage_says_what_is_missing(kd: Any, words: list[str], said: str) -> None:
    called = kd("search", *words)
    assert called.code == 2
    assert said in called.err


def test_a_config_without_the_section_is_refused(kd: Any, tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(CONFIG, encoding="utf-8")
    called = kd("search", str(file))
    assert called.code == 1
    assert f"{file} has no section search:" in called.err
    assert "write search: {space:" in called.err


def test_mistakes_are_said_with_their_lines_and_nothing_begins(kd: Any, tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(CONFIG + SECTION.replace("width", "wide"), encoding="utf-8")
    called = kd("search", str(file), "--output-dir", str(tmp_path / "runs"))
    assert called.code == 1
    assert f"{file}:" in called.err
    assert "wide" in called.err
    assert not (tmp_path / "runs").exists()


def test_show_prints_what_was_found(kd: Any, tmp_path: Path) -> None:
    section = {"space": {"x": [1, 2, 3]}, "objectives": [{"metric": "score", "goal": "maximize"}]}
    config = {"output_dir": str(tmp_path), "search": {**section, "searcher": "grid"}}
    result = Search(config, lambda point: {"score": -((point["x"] - 2) ** 2)}, quiet=True).run()
    called = kd("search", "--show", str(result.folder))
    assert called.code == 0
    assert "1*  2" in called.out
    assert "* the best" in called.out


def test_report_writes_a_searchs_report_again(kd: Any, tmp_path: Path) -> None:
    section = {"space": {"x": [1, 2, 3]}, "objectives": [{"metric": "score", "goal": "maximize"}]}
    config = {"output_dir": str(tmp_path), "search": {**section, "searcher": "grid"}}
    result = Search(config, lambda point: {"score": -((point["x"] - 2) ** 2)}, quiet=True).run()
    report = result.folder / "report.html"
    before = report.read_text(encoding="utf-8")
    report.unlink()
    assert kd("report", str(result.folder)).out == f"{report}\n"
    assert report.read_text(encoding="utf-8") == before
    assert "Trial 1 is the best" in before


def test_show_refuses_what_is_no_search(kd: Any, tmp_path: Path) -> None:
    called = kd("search", "--show", str(tmp_path))
    assert called.code == 1
    assert "is not the folder of a search" in called.err


def test_a_run_passes_over_the_section(kd: Any, tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(CONFIG + SECTION, encoding="utf-8")
    called = kd("run", str(file), "--quiet", "--output-dir", str(tmp_path))
    assert called.code == 0, called.err
    assert json.loads((Path(called.out.strip()) / "results.json").read_text())["status"] == "completed"


OWN = """\
from torch import nn
import kdcore

kdcore.register("model", "searched_own", lambda: nn.Flatten())
"""


@pytest.mark.parametrize("words", [("search", "--resume"), ("search", "--show"), ("report",)])
def test_a_plugin_file_that_is_not_given_again_is_named(
    kd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN, encoding="utf-8")
    section = {"space": {"x": [1, 2]}, "objectives": [{"metric": "score", "goal": "maximize"}], "searcher": "grid"}
    models = {"teacher": "searched_own", "student": {"type": "digits_mlp", "params": {"width": 4}}}
    folder = (
        Search({"output_dir": "runs", "search": section}, lambda point: {"score": 1.0}, plugins=["own.py"], quiet=True)
        .run()
        .folder
    )
    config = yaml.safe_load(CONFIG)
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "models": models, "search": section}))
    called = kd(*words, str(folder))
    assert called.code == 1
    assert "unknown model 'searched_own'\n    the search had --plugin own.py: add it again\n" in called.err
    Path("own.py").unlink()
    assert f"a plugin file that is gone, {tmp_path}/own.py: bring it back, and" in kd(*words, str(folder)).err
