"""`kd plugins new`: the package it writes passes its own tests, the kit and a run, as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdcore.cli.package import SAMPLES, Package
from kdcore.component import Kind
from kdcore.errors import PluginError
from kdcore.plugins import Registry

BIN = Path(sys.executable).parent


def call(*command: object, at: Path, path: Path | None = None) -> str:
    """Run a command in a folder, with a folder of installed packages; returns what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(list(map(str, command)), cwd=at, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def installed(folder: Path, into: Path) -> Path:
    """Install a package into a folder of its own, without the network."""
    options = ["--quiet", "--offline", "--no-deps", "--no-build-isolation", "--python", sys.executable]
    call(BIN / "uv", "pip", "install", *options, "--target", into, folder, at=folder)
    return into


# One process for all of them, since most of the time of each would be spent importing torch.
ALL = """
import os, sys
import pytest
from kdcore.cli.main import main
folders = sys.argv[1:]
assert pytest.main(["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-c", os.devnull, *folders]) == 0
for folder in folders:
    os.chdir(folder)
    assert main(["plugins", "check", os.path.basename(folder)]) == 0
    assert main(["run", "example.yaml", "--quiet"]) == 0
"""


@pytest.mark.slow
def test_what_is_written_works_as_it_is(tmp_path: Path) -> None:
    folders = [Package.named(f"quite-new-{kind}", kind).write(tmp_path) for kind in SAMPLES]
    for folder in folders:
        installed(folder, tmp_path / "site")
    said = call(sys.executable, "-c", ALL, *folders, at=tmp_path, path=tmp_path / "site")
    assert " failed" not in said
    assert "there is no example" not in said
    for folder in folders:
        assert list(folder.glob("runs/*/*/report.html")), folder


@pytest.mark.parametrize("spelling", ["my-loss", "My_Loss", "kd-plugin-my-loss", "my.loss", "KD_plugin_my_loss"])
def test_names_in_the_usual_spellings(spelling: str) -> None:
    package = Package.named(spelling, Kind.LOSS)
    assert (package.distribution, package.module, package.component) == (
        "kd-plugin-my-loss",
        "kd_plugin_my_loss",
        "my_loss",
    )
    assert "class MyLoss(" in package.files()["src/kd_plugin_my_loss/loss.py"]


@pytest.mark.parametrize("name", ["", "9th", "my loss", "../loss", "löss", "-", "kd-plugin-", "a/b"])
def test_names_that_name_no_package(name: str) -> None:
    with pytest.raises(PluginError, match=r"(?s)cannot name a package.*for example my-loss"):
        Package.named(name, Kind.LOSS)


def test_the_ending_is_not_doubled() -> None:
    assert "class MarginLoss(" in Package.named("margin", Kind.LOSS).files()["src/kd_plugin_margin/loss.py"]


@pytest.mark.parametrize("kind", list(SAMPLES), ids=str)
def test_a_package_is_complete_and_holds_no_mark_of_its_templates(kind: Kind) -> None:
    files = Package.named("whole", kind).files()
    module = SAMPLES[kind].module
    assert set(files) == {
        ".github/workflows/test.yml",
        ".gitignore",
        "LICENSE",
        "README.md",
        "example.yaml",
        "pyproject.toml",
        "src/kd_plugin_whole/__init__.py",
        f"src/kd_plugin_whole/{module}.py",
        "src/kd_plugin_whole/examples.py",
        "src/kd_plugin_whole/py.typed",
        "src/kd_plugin_whole/schema.json",
        "tests/test_conformance.py",
        f"tests/test_{module}.py",
    }
    for name, text in files.items():
        assert not any(mark in text for mark in ("<<", ">>", "<%", "%>")), name
        assert text.endswith("\n") or not text, name


@pytest.mark.parametrize("kind", list(SAMPLES), ids=str)
def test_what_is_written_is_formatted(tmp_path: Path, kind: Kind) -> None:
    folder = Package.named("tidy", kind).write(tmp_path)
    options = ["--isolated", "--no-cache", "--line-length", "120", folder]
    call(BIN / "ruff", "format", "--check", *options, at=tmp_path)
    call(BIN / "ruff", "check", "--select", "E,F,W,UP,B,N,PT,RET,SIM,RUF", *options, at=tmp_path)


def test_the_command(kd: Any, tmp_path: Path) -> None:
    called = kd("plugins", "new", "my-loss", "--into", tmp_path / "new")
    folder = tmp_path / "new" / "kd-plugin-my-loss"
    assert called.code == 0
    assert called.out.splitlines()[0] == f"{folder}: the loss 'my_loss'. Next:"
    assert (folder / "pyproject.toml").is_file()
    (folder / "README.md").write_text("mine")
    again = kd("plugins", "new", "my_loss", "--into", tmp_path / "new")
    assert again.code == 1
    assert f"{folder} exists already" in again.err
    assert (folder / "README.md").read_text() == "mine"


def test_a_folder_that_cannot_be_made(kd: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    called = kd("plugins", "new", "my-loss", "--into", tmp_path / "file")
    assert called.code == 1
    assert "cannot be made: Not a directory" in called.err


def test_a_name_that_is_taken(kd: Any, tmp_path: Path) -> None:
    called = kd("plugins", "new", "mse", "--into", tmp_path)
    assert called.code == 1
    assert "kd-plugin-torch 0.1.0 offers a loss called 'mse' already" in called.err
    assert not list(tmp_path.iterdir())
    assert kd("plugins", "new", "mse", "--kind", "model", "--into", tmp_path).code == 0


@pytest.mark.parametrize("word", ["null", "True", "false", "yes", "no", "ON", "off", "y", "n", "kd-plugin-null"])
def test_words_of_yaml_name_nothing(word: str) -> None:
    plain = word.lower().removeprefix("kd-plugin-")
    said = rf"(?s)'{plain}' is a word of YAML: .* the wrapper's name.*another name, for example {plain}-wrapper"
    with pytest.raises(PluginError, match=said):
        Package.named(word, Kind.WRAPPER)
    assert Package.named(f"{plain}-wrapper", Kind.WRAPPER).component == f"{plain}_wrapper"


@pytest.mark.parametrize("name", ["torch", "rkd", "Logit_Std", "pruning"])
def test_a_package_of_ours_is_not_made_anew(kd: Any, tmp_path: Path, name: str) -> None:
    called = kd("plugins", "new", name, "--into", tmp_path)
    plain = name.lower().replace("_", "-")
    assert called.code == 1
    assert f"kd-plugin-{plain} is a package that is released with kdcore: installing another" in called.err
    assert f"choose another name, for example my-{plain}" in called.err
    assert not list(tmp_path.iterdir())


def test_a_package_of_ours_need_not_be_installed() -> None:
    with pytest.raises(PluginError, match="kd-plugin-torch is a package that is released with kdcore"):
        Package.named("torch", Kind.MODEL).check_free(Registry())
    with pytest.raises(PluginError, match=r"kd-plugin-dist, which is released with kdcore, offers a loss.*'dist_plus'"):
        Package.named("dist-plus", Kind.LOSS).check_free(Registry())
    Package.named("dist-plus", Kind.MODEL).check_free(Registry())


def test_a_package_that_is_installed_is_not_made_anew(kd: Any, install: Any, tmp_path: Path) -> None:
    install("kd-plugin-strange", "")
    called = kd("plugins", "new", "strange", "--into", tmp_path / "new")
    assert called.code == 1
    assert (
        "kd-plugin-strange 1.2.3 is installed already: installing another of that name would replace it" in called.err
    )
    assert "for example my-strange; if it is yours, go on in its own folder" in called.err


def test_the_name_of_the_term_of_labels(kd: Any, tmp_path: Path) -> None:
    called = kd("plugins", "new", "ce", "--into", tmp_path)
    assert called.code == 1
    assert "'ce' is what the examples call the term of cross_entropy" in called.err
    assert kd("plugins", "new", "ce", "--kind", "balancer", "--into", tmp_path).code == 0


@pytest.mark.parametrize("kind", list(SAMPLES), ids=str)
def test_the_readme_says_on_what_the_example_trains(kind: Kind) -> None:
    files = Package.named("whole", kind).files()
    assert ("on the digits data" in files["README.md"]) is ("type: digits," in files["example.yaml"])
    assert "\n\nSay here what" in files["README.md"]


def test_a_kind_without_a_template(kd: Any, tmp_path: Path) -> None:
    called = kd("plugins", "new", "x", "--kind", "searcher", "--into", tmp_path)
    assert called.code == 2
    assert "there is no template for a searcher" in called.err
