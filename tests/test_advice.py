"""What users are told to do next works as it stands when it is copied."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kdcore.advice import Call, Command

RUN = Path("runs/kd/20260131-180000")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of programs that a shell finds."""
    for name in ("kd", "torchrun", "python"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "kd"), "run"])
    return tmp_path


def launched(monkeypatch: pytest.MonkeyPatch, count: int, here: int | None) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(count))
    if here is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))


@pytest.mark.usefixtures("programs")
def test_a_command_gives_plugin_files_again() -> None:
    assert Command("run").resume(RUN) == f"kd run --resume {RUN}"
    command = Command("run", ["mine.py", "my plugins/two.py", "mine.py"])
    expected = "kd run --resume 'runs/my kd' --plugin mine.py --plugin 'my plugins/two.py'"
    assert command.resume(Path("runs/my kd")) == expected
    assert Command("search", ["a.py"]).resume(RUN) == f"kd search --resume {RUN} --plugin a.py"


@pytest.mark.usefixtures("programs")
def test_a_file_that_is_somewhere_else_by_now_is_named_in_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    command = Command("run", ["mine.py", "/abs/two.py"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command.resume(RUN) == f"kd run --resume {RUN} --plugin {tmp_path}/mine.py --plugin /abs/two.py"


def test_the_program_is_the_one_that_was_started(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/other/bin/kd"])
    assert Command("run").resume(RUN).startswith("/other/bin/kd run ")
    monkeypatch.setattr(sys, "argv", ["/site/kdcore/__main__.py"])
    assert Command("run").resume(RUN).startswith("python -m kdcore run ")
    monkeypatch.setattr(sys, "executable", "/other/bin/python")
    assert Command("run").resume(RUN).startswith("/other/bin/python -m kdcore run ")
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert Command("run").resume(RUN).startswith("kd run ")


def test_several_processes_are_launched_as_many_again(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, 2, 2)
    assert (
        Command("run", ["a.py"]).resume(RUN)
        == f"torchrun --nproc_per_node 2 -m kdcore run --resume {RUN} --plugin a.py"
    )
    (programs / "torchrun").unlink()
    assert Command("run").resume(RUN).startswith("python -m torch.distributed.run --nproc_per_node 2 -m kdcore run ")


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("here", [2, None])
def test_where_there_are_several_machines_the_launcher_stays(monkeypatch: pytest.MonkeyPatch, here: int | None) -> None:
    launched(monkeypatch, 4, here)
    assert Command("run").resume(RUN) == f"the same launcher with -m kdcore run --resume {RUN}"


@pytest.mark.usefixtures("programs")
def test_another_number_of_processes_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Command("run").resume(RUN, 2) == f"torchrun --nproc_per_node 2 -m kdcore run --resume {RUN}"
    launched(monkeypatch, 2, 2)
    assert Command("run").resume(RUN, 1) == f"kd run --resume {RUN}"
    assert Call("run(config, resume={folder})").resume(RUN, 1) == f"run(config, resume='{RUN}') in 1 process"


def test_a_call_from_python_names_the_folder() -> None:
    assert Call("kdcore.run(config, resume={folder})").resume(RUN) == f"kdcore.run(config, resume='{RUN}')"
