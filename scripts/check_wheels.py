"""Install the built wheels apart from the checkout and run the example with them.

    python scripts/check_wheels.py dist

The environment is fresh but for third-party packages, which it sees in the environment of the
Python that runs this; so nothing is downloaded, and nothing is imported from the checkout.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "digits" / "kd.yaml"

STAGES = """
import json, sys, yaml
print(json.dumps([stage["name"] for stage in yaml.safe_load(open(sys.argv[1]))["stages"]]))
"""


class Environment:
    """A virtual environment with the wheels in it, used from a folder outside the checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "venv" / "bin"
        self.work = folder / "work"
        self.work.mkdir()

    def install(self, wheels: list[Path]) -> None:
        """Make the environment and install the wheels."""
        self.call(sys.executable, "-m", "venv", "--without-pip", self.folder / "venv")
        python = self.bin / "python"
        site = Path(self.call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        # A folder named in a .pth file is searched, but its own .pth files, and with them what is
        # installed there as editable, are not read.
        (site / "third_party.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        uv = Path(sys.executable).with_name("uv")
        self.call(uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, *wheels)
        found = Path(self.call(python, "-c", "import kdcore; print(kdcore.__file__)").strip())
        check(found.is_relative_to(site), f"kdcore comes from {found}, not from its wheel")

    def kd(self, *arguments: object) -> str:
        """Call the installed `kd`."""
        return self.call(self.bin / "kd", *arguments)

    def call(self, *command: object) -> str:
        """Run a command and return its output; what it says in failing is shown."""
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(  # noqa: S603 - our own commands
            list(map(str, command)), cwd=self.work, env=environment, capture_output=True, text=True, check=False
        )
        check(done.returncode == 0, f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
        return done.stdout


def check(fine: bool, message: str) -> None:
    """End with a message unless all is well."""
    if not fine:
        raise SystemExit(message)


def check_listing(listing: dict[str, Any], wheels: list[Path]) -> None:
    """Compare what `kd plugins` found with the wheels."""
    check(not listing["broken"], f"broken plugins: {json.dumps(listing['broken'], indent=2)}")
    built = {wheel.name.split("-")[0].replace("_", "-") for wheel in wheels} - {"kdcore"}
    found = {each["distribution"] for each in listing["components"]}
    check(found == built, f"wheels without components: {built - found}; components without wheels: {found - built}")


def main(dist: Path) -> None:
    """Check the wheels in `dist`."""
    wheels = sorted(dist.resolve().glob("*.whl"))
    check(bool(wheels), f"there are no wheels in {dist}: make wheels")
    for wheel in wheels:
        held = zipfile.ZipFile(wheel).namelist()
        check(any(name.endswith(".dist-info/licenses/LICENSE") for name in held), f"{wheel.name} holds no licence")
    with tempfile.TemporaryDirectory() as folder:
        environment = Environment(Path(folder))
        environment.install(wheels)
        check_listing(json.loads(environment.kd("plugins", "--json")), wheels)
        config = shutil.copy(EXAMPLE, environment.work / "kd.yaml")
        print(environment.kd("validate", config), end="")
        stages = json.loads(environment.call(environment.bin / "python", "-c", STAGES, config))
        short = [word for stage in stages for word in ("--set", f"stages.{stage}.epochs=1")]
        run = Path(environment.kd("run", config, "--quiet", *short).strip())
        report = environment.work / run / "report.html"
        check(report.is_file(), f"the run left no report in {run}")
        print(f"{len(wheels)} wheels: installed, listed, checked and run")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
