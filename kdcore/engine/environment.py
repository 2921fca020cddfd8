"""What a run ran on, so that somebody can run it again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from kdcore import __version__
from kdcore.plugins import Registry


def describe_environment(device: torch.device, registry: Registry) -> dict[str, Any]:
    """Return versions, hardware, plugins, the command and the state of the checkout."""
    plugins = {(each.provenance.distribution, each.provenance.version) for each in registry.all()}
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kdcore": __version__,
        "platform": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "plugins": [{"distribution": name, "version": version} for name, version in sorted(plugins)],
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": _git_state(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _git_state() -> str | None:
    """Return the commit of the current folder's checkout, marked if it has changes, or None outside one."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607 - whichever git the user has
            capture_output=True,
            text=True,
            timeout=5,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
