"""Plugin files of a run: told by their content, named to whoever resumes without them."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from kdcore.cli.main import main
from kdcore.engine.plugin_files import describe_plugin_files, recorded_plugin_files
from kdcore.engine.progress import Progress
from kdcore.engine.samples import IndexedDataset
from kdcore.plugins import Registry

PLUGIN = """\
from torch import nn
import kdcore

class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1))

kdcore.register("model", "own", Own)
"""

CONFIG = """\
version: 1
name: own
output_dir: {folder}
data:
  train: {{type: digits, params: {{split: train, samples_per_class: 3}}, batch_size: 10}}
models:
  student: own
stages:
  - name: only
    epochs: 3
    train: [student]
    losses: {{ce: cross_entropy}}
    optimizer: {{type: SGD, params: {{lr: 0.1}}}}
"""


class Stops(Progress):
    def step_ended(self, terms: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Path:
    """A run that was interrupted, in the working directory; plugin files are loaded afresh for every command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kdcore.plugins.registry", Registry.discover)
    Path("own.py").write_text(PLUGIN)
    Path("own.yaml").write_text(CONFIG.format(folder="runs"))
    with monkeypatch.context() as patched:
        patched.setattr("kdcore.engine.run.make_progress", lambda quiet: Stops())
        assert main(["run", "own.yaml", "--plugin", "own.py"]) == 128 + signal.SIGTERM
    (folder,) = Path("runs/own").iterdir()
    assert capfd.readouterr().err.endswith(f"; kd run --resume {folder} --plugin own.py goes on from there\n")
    return folder


def test_what_was_advised_goes_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["run", "--quiet", "--resume", str(run), "--plugin", "own.py"]) == 0
    # The same file by another path.
    Path("inner").mkdir()
    monkeypatch.chdir("inner")
    assert main(["run", "--quiet", "--resume", f"../{run}", "--plugin", "../own.py"]) == 0


def test_a_file_that_was_not_given_again_is_named(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--resume", str(run)]) == 1
    assert "unknown model 'own'\n    the run had --plugin own.py: add it again\n" in capfd.readouterr().err
    Path("own.py").unlink()
    assert main(["run", "--resume", str(run)]) == 1
    assert "a plugin file that is gone, " in capfd.readouterr().err
    (run / "identity.json").unlink()
    assert main(["run", "--resume", str(run)]) == 1
    assert "unknown model 'own'\n    known model names: " in capfd.readouterr().err


def test_a_file_that_was_edited_is_refused(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = json.loads((run / "identity.json").read_text())["plugins"]["own.py"]["content"]
    Path("own.py").write_text(PLUGIN + "# edited\n")
    words = ["run", "--quiet", "--resume", str(run), "--plugin", "own.py"]
    assert main(words) == 1
    error = capfd.readouterr().err
    assert f"plugin file {Path.cwd()}/own.py: its content was '{before}', is '" in error
    assert "or add --accept-changes to go on all the same" in error
    assert main([*words, "--accept-changes"]) == 0


def test_files_that_are_called_alike_are_told_apart(tmp_path: Path) -> None:
    files = [tmp_path / "a" / "x.py", tmp_path / "b" / "x.py", tmp_path / "y.py"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
    described = describe_plugin_files(files)
    assert list(described) == [str(files[0]), str(files[1]), "y.py"]
    (tmp_path / "identity.json").write_text(json.dumps({"plugins": described}))
    assert recorded_plugin_files(tmp_path) == files
    (tmp_path / "identity.json").write_text("[]")
    assert recorded_plugin_files(tmp_path) == []


DATASET = """\
import kdcore

class Own:
    targets = [0, 1]

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"input": float(index)}

kdcore.register("dataset", "pickled_own", Own)
"""


def test_a_data_set_of_a_plugin_file_reaches_workers_that_do_not_know_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pickled_own.py").write_text(DATASET)
    plugins = Registry.discover()
    plugins.load_file("pickled_own.py")
    module = sys.modules["kdcore_plugin_file_pickled_own"]
    sent = pickle.dumps(IndexedDataset(module.Own(), "train", seed=0))
    monkeypatch.delitem(sys.modules, module.__name__)
    monkeypatch.setattr("kdcore.engine.plugin_files.registry", Registry.discover)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    received = pickle.loads(sent)
    assert received[1][1] == {"input": 1.0}
    assert type(received.dataset) is sys.modules[module.__name__].Own
    # One that knows the file does not execute it again.
    assert type(pickle.loads(sent).dataset) is type(received.dataset)
