"""A plugin file: a data set whose worker does something unpleasant at one sample, once."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, get_worker_info

import kdcore

SAMPLES, BATCH, AT = 96, 4, 50


class Signalled(Dataset[dict[str, Any]]):
    """Does what the file `marker` says when one sample is read in a worker, and removes the file."""

    num_classes = 2

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, Any]:
        marker = self.folder / "marker"
        if index == AT and get_worker_info() is not None and marker.exists():
            words = marker.read_text().split()
            marker.unlink()
            act(words, self.folder)
        # Random, so that a sample read twice or not at all shows in the weights.
        return {"input": torch.randn(1, 8, 8) + index / SAMPLES, "target": index % 2}


def act(words: list[str], folder: Path) -> None:
    """Send every process of the group the signals of these names, or do something else that has a name."""
    for word in words:
        if word in ACTS:
            ACTS[word](folder)
        else:
            os.killpg(0, signal.Signals[word])


def waited_for(folder: Path) -> None:
    """Wait until the main process waits for this very batch."""
    while (folder / "steps.txt").stat().st_size < AT // BATCH:
        time.sleep(0.001)


def fifo(folder: Path) -> None:
    """Read what nobody writes."""
    os.mkfifo(folder / "fifo")
    tell_stuck(folder)
    (folder / "fifo").read_text()


def loop(folder: Path) -> None:
    """Never end."""
    tell_stuck(folder)
    while True:
        pass


def lock(folder: Path) -> None:
    """Get stuck where no signal handler of Python's runs, nor any other thread."""
    library = ctypes.PyDLL(None)
    mutex = ctypes.create_string_buffer(256)
    library.pthread_mutex_lock(mutex)
    tell_stuck(folder)
    library.pthread_mutex_lock(mutex)


def child(folder: Path) -> None:
    """Start a process and tell it to end."""
    started = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    started.terminate()
    assert started.wait() == -signal.SIGTERM
    (folder / "child_ended").touch()


ACTS = {each.__name__: each for each in (waited_for, fifo, loop, lock, child)}


def tell_stuck(folder: Path) -> None:
    """Say that this process, named by its number, does not come back."""
    (folder / "new").write_text(str(os.getpid()))
    (folder / "new").replace(folder / "stuck")


SCHEMA = {"type": "object", "additionalProperties": False, "properties": {"folder": {"type": "string"}}}
kdcore.register("dataset", "signalled", Signalled, schema=SCHEMA)
