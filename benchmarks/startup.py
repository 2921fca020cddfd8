"""How long `kd` takes to start, and what an installed plugin adds.

Prints CPU time (user and system, the smallest of several interleaved rounds) of each command next to
`import yaml, jsonschema`, a plain program of the same kind, and the cost of 200 generated plugins.
Run: python benchmarks/startup.py [rounds]
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = str(ROOT / "examples" / "digits" / "kd.yaml")
PLUGINS = 200
LIMIT_RATIO, LIMIT_PLUGIN_MS = 3.0, 0.3

BASELINE = "import yaml, jsonschema"
COMMANDS = {
    BASELINE: ["-c", BASELINE],
    "kd --help": ["-m", "kdcore", "--help"],
    "kd plugins": ["-m", "kdcore", "plugins"],
    "kd plugins --json": ["-m", "kdcore", "plugins", "--json"],
    "kd validate": ["-m", "kdcore", "validate", CONFIG],
    "kd schema": ["-m", "kdcore", "schema"],
}

# The same work with and without the generated plugins: what a config check does before it reads a file.
DISCOVER = ["-c", "from kdcore.plugins import Registry; Registry.discover()"]

MANIFEST = """
from kdcore.component import Component, Input, Paper
from kdcore.hookspecs import hookimpl

@hookimpl
def losses():
    return [
        Component(
            name="dummy_{number}",
            factory="kd_plugin_dummy_{number}.loss:DummyLoss",
            schema="schema.json",
            summary="a generated loss",
            paper=Paper("A Paper", 2024, "https://example.org"),
            inputs=(Input("student", default="student"), Input("teacher", default="teacher")),
        )
    ]
"""


def cpu_ms(arguments: list[str], path: str = "") -> float:
    """Return the CPU milliseconds that one Python process takes."""
    environment = {**os.environ, "PYTHONPATH": path} if path else dict(os.environ)
    process = subprocess.Popen(  # noqa: S603 - our own commands
        [sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"python {' '.join(arguments)} failed:\n{errors.decode()}")
    return (usage.ru_utime + usage.ru_stime) * 1000


def interleaved(cases: dict[str, tuple[list[str], str]], rounds: int) -> dict[str, float]:
    """Return the smallest time of each case; one round runs each once, so that all see the same machine."""
    best = {name: cpu_ms(*case) for name, case in cases.items()}
    for _ in range(rounds):
        for name, case in cases.items():
            best[name] = min(best[name], cpu_ms(*case))
    return best


def write_plugin(site: Path, number: int, source: str = MANIFEST) -> None:
    """Write one generated distribution as pip would leave it."""
    name = f"kd_plugin_dummy_{number}"
    (site / name).mkdir()
    (site / name / "__init__.py").write_text(source.replace("{number}", str(number)))
    (site / name / "schema.json").write_text('{"type": "object", "additionalProperties": false}')
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kd-plugin-dummy-{number}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[kdcore.plugins]\ndummy_{number} = {name}\n")


def plugin_costs(rounds: int) -> dict[str, float]:
    """Return the time of discovery with no generated plugin, with 200, and with a broken one besides.

    Next to these, what Python alone takes to import the 200 manifests.
    """
    with tempfile.TemporaryDirectory() as folder:
        empty, many, broken = (Path(folder) / name for name in ("empty", "many", "broken"))
        for site in (empty, many, broken):
            site.mkdir()
        for number in range(PLUGINS):
            write_plugin(many, number)
            write_plugin(broken, number)
        write_plugin(broken, PLUGINS, "raise ImportError('broken on purpose')")
        cases = {site.name: (DISCOVER, str(site)) for site in (empty, many, broken)}
        imports = "; ".join(["import kdcore", *(f"import kd_plugin_dummy_{number}" for number in range(PLUGINS))])
        cases |= {"no imports": (["-c", "import kdcore"], ""), "imports": (["-c", imports], str(many))}
        return interleaved(cases, rounds)


def main() -> None:
    """Measure and print."""
    if importlib.util.find_spec("jsonschema") is None:
        raise SystemExit("the program to compare with needs jsonschema: pip install jsonschema")
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    times = interleaved({name: (arguments, "") for name, arguments in COMMANDS.items()}, rounds)
    for name, time in times.items():
        print(f"{name:24} {time:6.0f} ms   {time / times[BASELINE]:4.2f} x")
    worst = max(time / times[BASELINE] for time in times.values())
    print(f"largest ratio {worst:.2f}, allowed {LIMIT_RATIO}")
    costs = plugin_costs(rounds)
    each = (costs["many"] - costs["empty"]) / PLUGINS
    alone = (costs["imports"] - costs["no imports"]) / PLUGINS
    print(
        f"one of {PLUGINS} plugins {each:.3f} ms, aim {LIMIT_PLUGIN_MS}; importing its manifest takes {alone:.3f} of it"
    )
    print(f"a broken one besides {costs['broken'] - costs['many']:.1f} ms")


if __name__ == "__main__":
    main()
