"""What commands import: nothing of a training run, and for `--help` next to nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[1] / "examples" / "digits" / "kd.yaml"

HEAVY = {
    "accelerate",
    "matplotlib",
    "numpy",
    "optuna",
    "safetensors",
    "sklearn",
    "tensorboard",
    "torch",
    "transformers",
}

PROBE = """
import sys
from kdcore.cli.main import main
code = main(sys.argv[1:])
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
sys.exit(code)
"""


def imported_by(*arguments: str) -> set[str]:
    """Return the top-level modules that one call of `kd` imports."""
    command = [sys.executable, "-c", PROBE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("run", "--help"),
        ("plugins",),
        ("plugins", "--json"),
        ("plugins", "show", "kd"),
        ("schema",),
        ("validate", str(CONFIG)),
        ("validate", str(CONFIG), "--json"),
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(arguments: tuple[str, ...]) -> None:
    assert not HEAVY & imported_by(*arguments)


def test_help_loads_no_plugins_and_prints_plainly() -> None:
    modules = imported_by("--help")
    assert not {"importlib_metadata", "jinja2", "jsonschema_rs", "rich", "yaml"} & modules
    assert not {name for name in modules if name.startswith("kd_plugin_")}


def test_a_check_that_finds_nothing_needs_no_tables() -> None:
    assert "rich" not in imported_by("validate", str(CONFIG))
    assert "rich" not in imported_by("plugins", "--json")


def test_the_package_itself_is_free_of_torch() -> None:
    code = "import sys, kdcore, kdcore.plugins, kdcore.signatures, kdcore.config.load; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_of_the_package_that_need_torch_load_it_on_first_use() -> None:
    code = "import sys, kdcore; kdcore.Objective; sys.exit('torch' not in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
