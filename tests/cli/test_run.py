"""`kd run`, `kd report` and `kd cache`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml


def test_a_run_leaves_a_folder_with_its_report(kd: Any, config: Path, tmp_path: Path) -> None:
    called = kd("run", config, "--output-dir", tmp_path / "runs", "--quiet", "--set", "seed=3")
    assert called.code == 0, called.err
    folder = Path(called.out.rstrip("\n"))
    assert folder.parent == tmp_path / "runs" / "tiny"
    resolved = yaml.safe_load((folder / "config.yaml").read_text())
    assert (resolved["seed"], resolved["output_dir"]) == (3, str(tmp_path / "runs"))
    report = folder / "report.html"
    before = report.read_text()
    report.unlink()
    assert kd("report", folder).out == f"{report}\n"
    assert report.read_text() == before


def test_a_run_shows_its_progress_and_where_it_went(kd: Any, config: Path, tmp_path: Path) -> None:
    called = kd("run", config, "--output-dir", tmp_path / "runs")
    assert called.code == 0, called.err
    assert "distill" in called.out
    assert "report.html" in called.out


def test_a_folder_whose_name_looks_like_a_number(
    kd: Any, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert kd("run", config, "--output-dir", "2024", "--quiet").code == 0
    assert (tmp_path / "2024" / "tiny").is_dir()


def test_a_mistake_in_the_config_stops_before_anything_is_made(kd: Any, config: Path, tmp_path: Path) -> None:
    called = kd("run", config, "--output-dir", tmp_path / "runs", "--set", "stages.distill.losses.kd.type=kdd")
    assert called.code == 1
    assert "did you mean 'kd'" in called.err
    assert not (tmp_path / "runs").exists()


def test_a_plugin_file_provides_a_loss(kd: Any, config: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from torch import nn\nimport kdcore\n\n"
        "class Mine(nn.Module):\n"
        "    def forward(self, student, teacher):\n"
        "        return (student - teacher.detach()).abs().mean()\n\n"
        "kdcore.register('loss', 'mine', Mine)\n"
    )
    arguments = ["run", config, "--quiet", "--output-dir", tmp_path / "runs", "--plugin", plugin]
    called = kd(*arguments, "--set", "stages.distill.losses.kd=mine")
    assert called.code == 0, called.err


def test_a_report_of_something_else(kd: Any, tmp_path: Path) -> None:
    called = kd("report", tmp_path)
    assert called.code == 1
    assert str(tmp_path) in called.err
    assert "Traceback" not in called.err


def test_an_interrupted_cache_says_what_stays(kd: Any, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("kdcore.engine.cache.fill.fill_caches", fill)
    called = kd("cache", config)
    assert called.code == 128 + signal.SIGTERM
    assert called.err == "kd: interrupted: what was stored stays; the same command, or a run, fills in the rest\n"
