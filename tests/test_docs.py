"""What the documentation says is so: generated pages are current, commands parse, code runs."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy
import pytest
import torch

from kdcore import hookspecs, plugins
from kdcore.cli.main import COMMANDS, build_parser
from kdcore.component import Kind
from kdcore.plugins import Registry
from kdcore.testing import Conformance, Outcome

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    [*DOCS.glob("*.md"), *(DOCS / "decisions").glob("*.md"), *(DOCS / "loops").glob("*.md"), ROOT / "README.md"]
)

BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[tuple[str, str]]:
    """Return the titles and texts of a page's code blocks in one language."""
    found = BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
    return [(title, text) for kind, title, text in found if kind == language]


def script(name: str) -> ModuleType:
    """Import a script of scripts/."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_current() -> None:
    pages = script("docs_reference").pages(Registry.discover())
    assert {file.name for file in (DOCS / "reference").iterdir()} == set(pages)
    for name, text in pages.items():
        assert (DOCS / "reference" / name).read_text(encoding="utf-8") == text, f"{name} is out of date: make generate"


@pytest.mark.parametrize("name", ["config.md", "components.md", "optimizers.md", "schedulers.md"])
def test_links_within_a_reference_lead_somewhere(name: str) -> None:
    text = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(#([\w-]+)\)", text)) - set(re.findall(r"\{: #([\w-]+) \}", text)) == set()


def test_every_hook_is_documented() -> None:
    text = (DOCS / "plugins.md").read_text(encoding="utf-8")
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    hooks = [name for name in vars(manager.hook) if not name.startswith("_")]
    assert {kind.hook for kind in Kind} < set(hooks)
    assert [hook for hook in hooks if f"`{hook}`" not in text and f"`{hook}(" not in text] == []


def commands() -> list[tuple[str, list[str]]]:
    """Return every `kd` command of the pages' console blocks, with its arguments."""
    found = []
    for page in PAGES:
        for language, _, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            lines = re.findall(r"^\$ (?:\w+=\S+ )*kd (.*)$", text, re.MULTILINE) if language == "console" else []
            found += [(f"{page.name}: kd {line}", shlex.split(line, comments=True)) for line in lines]
    return found


@pytest.mark.parametrize(("line", "arguments"), commands(), ids=[line for line, _ in commands()])
def test_every_command_that_is_shown_exists(line: str, arguments: list[str]) -> None:
    assert build_parser().parse_args(arguments).execute is COMMANDS[arguments[0]].execute, line


def test_the_loop_of_ones_own_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for _, text in blocks("own-loop.md", "python"):
        exec(compile(text, "own-loop.md", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3
    assert all("'ce'" in line and "'kd'" in line for line in printed)


def test_the_notebook_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = next(text for title, text in blocks("plugins.md", "python") if not title and "register(" in text)
    registry = Registry()
    monkeypatch.setattr(plugins, "registry", lambda: registry)
    monkeypatch.setattr("kdcore.config.create.registry", lambda: registry)
    names: dict[str, Any] = {"__name__": "notebook"}
    exec(compile(text, "plugins.md", "exec"), names)
    assert names["loss"](torch.ones(2, 3), torch.ones(2, 3)) == pytest.approx(0.0, abs=1e-6)


def test_the_criterion_example_conforms() -> None:
    text = next(text for title, text in blocks("plugins.md", "python") if not title and "def score" in text)
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(text, "plugins.md", "exec"), names)
    options: dict[str, Any] = {"schema": {"type": "object", "additionalProperties": False}, "summary": "a test"}
    registered = Registry().register(Kind.CRITERION, "sensitivity", names["Sensitivity"], **options)
    passed = [each.check for each in Conformance(registered).run() if each.outcome is Outcome.PASSED]
    assert {"scores", "gradients_told", "scores_continue", "criteria_apart", "scores_dtype"} <= set(passed)


def test_the_package_example_works(site: Path) -> None:
    titled = [*blocks("plugins.md", "python"), *blocks("plugins.md", "json")]
    for title, text in titled:
        if title:
            file = site / title.removeprefix("src/")
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
    info = site / "kd_plugin_cosine-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: kd-plugin-cosine\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[kdcore.plugins]\ncosine = kd_plugin_cosine\n")
    found = Registry.discover().find("loss", "kd-plugin-cosine:cosine")
    assert found.schema["properties"]["weight"]["default"] == 1.0
    loss = found.factory()(weight=2.0)
    assert loss(student=torch.eye(2), teacher=-torch.eye(2)) == pytest.approx(4.0)
    for name in [name for name in sys.modules if name.startswith("kd_plugin_cosine")]:
        del sys.modules[name]
