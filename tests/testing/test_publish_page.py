"""docs/publish.md: every command is run, and prints what is shown."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from kdcore.cli.package import Package
from kdcore.component import Kind
from kdcore.testing import CHECKS
from tests.testing.test_new_package import BIN, installed

PAGE = Path(__file__).parents[2] / "docs" / "publish.md"
TEXT = PAGE.read_text(encoding="utf-8")
NEEDS_THE_NETWORK = ('pip install "kdcore[standard]"', "pip install build twine", "python -m build", "twine upload")


def commands() -> list[tuple[str, str]]:
    """Return each command of the page with the output that is shown under it."""
    blocks = re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
    return [
        (command, output)
        for block in blocks
        for command, _, output in (part.partition("\n") for part in block.split("$ ")[1:])
    ]


def agrees(shown: str, found: str) -> bool:
    """Whether the output is what is shown, `...` standing for anything, on a line of its own for any lines."""
    lines = [".*" if line == "..." else re.escape(line).replace(r"\.\.\.", "[^\n]*") for line in shown.splitlines()]
    return re.fullmatch("\n".join(lines), found.strip("\n"), re.DOTALL) is not None


def test_what_agrees() -> None:
    assert agrees("a\n...\nb in ...", "a\nx\ny\nb in 3 s")
    assert not agrees("a\nb", "a\nc")
    assert not agrees("a ...", "a b\nc")


@pytest.mark.slow
def test_every_command_prints_what_is_shown(tmp_path: Path) -> None:
    here, site = tmp_path, tmp_path / "site"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    run = 0
    for number, (command, shown) in enumerate(commands()):
        if command.startswith(NEEDS_THE_NETWORK):
            continue
        run += 1
        if command.startswith("cd "):
            here = here / command.removeprefix("cd ")
            continue
        if command == "pip install -e .":
            # What is installed lies elsewhere; what is imported are the sources, as with -e.
            installed(here, site)
            environment["PYTHONPATH"] = os.pathsep.join([str(here / "src"), str(site)])
            continue
        if command == "kd plugins check my_loss":
            forget_to_detach(here, forgotten="FAILED" in shown)
        done = subprocess.run(
            command, shell=True, cwd=here, env=environment, capture_output=True, text=True, check=False
        )
        assert agrees(shown, done.stdout), f"command {number}, {command}, printed\n{done.stdout}{done.stderr}"
        assert done.returncode == int("FAILED" in shown)
    assert run == 8


def forget_to_detach(folder: Path, *, forgotten: bool) -> None:
    file = folder / "src" / "kd_plugin_my_loss" / "loss.py"
    right = Package.named("my-loss", Kind.LOSS).files()["src/kd_plugin_my_loss/loss.py"]
    assert right.count("teacher.detach()") == 1
    file.write_text(right.replace("teacher.detach()", "teacher") if forgotten else right, encoding="utf-8")


def test_the_files_that_are_shown_are_those_that_are_written() -> None:
    shown = dict(re.findall(r'```python title="(.*?)"\n(.*?)```', TEXT, re.DOTALL))
    files = Package.named("my-loss", Kind.LOSS).files()
    assert shown == {name: files[name] for name in ("src/kd_plugin_my_loss/loss.py", "tests/test_conformance.py")}


def test_the_table_lists_every_check() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) ?\|$", TEXT, re.MULTILINE)
    expected = [
        (
            check.name,
            check.summary,
            "all" if check.kinds == frozenset(Kind) else ", ".join(kind.title for kind in Kind if kind in check.kinds),
            ", ".join(word for word, holds in (("optional", check.optional), ("slow", check.slow)) if holds),
        )
        for check in CHECKS.values()
    ]
    assert rows == expected
