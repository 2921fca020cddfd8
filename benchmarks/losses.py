"""What a loss costs, forward and backward, against its textbook form: a ratio of times and of peak memory.

Every file in `benchmarks/cases/` lists cases of one plugin. Both forms run in turns in one process, on one
thread, in float32, and CPU time is taken; peak memory is that of a process of its own for each form.

    python benchmarks/losses.py             every case
    python benchmarks/losses.py rkd         the cases whose name contains rkd
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One loss at one size.

    Arguments:
        name: loss and size, such as `rkd B256 D512`.
        fast: makes the loss as shipped.
        textbook: makes the form of the paper, called with the same inputs.
        inputs: makes the inputs; those that require gradient get one.
        rounds: how often each form is timed.
        reached: the milliseconds that were aimed at, for the table.
    """

    name: str
    fast: Callable[..., Callable[..., Any]]
    textbook: Callable[..., Callable[..., Any]]
    inputs: Callable[..., Inputs]
    rounds: int = 7
    reached: float | None = None


def textbook_forms(plugin: str, module: str = "textbook") -> ModuleType:
    """Return a module of a plugin's tests, where the textbook forms live."""
    file = HERE.parent / "plugins" / plugin / "tests" / f"{module}.py"
    spec = importlib.util.spec_from_file_location(f"{plugin.replace('-', '_')}_{module}", file)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(file)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def step(loss: Callable[..., Any], inputs: Inputs) -> float:
    """Return the milliseconds of CPU time of one forward and backward pass, which what else runs changes little."""
    for value in inputs.values():
        if isinstance(value, Tensor):
            value.grad = None
    start = time.process_time()
    result = loss(**inputs)
    total = result[0] if isinstance(result, tuple) else result
    total.backward()
    if isinstance(loss, nn.Module):
        loss.zero_grad(set_to_none=True)
    return 1000 * (time.process_time() - start)


def compare(case: Case) -> tuple[float, float]:
    """Return the median milliseconds of the fast and the textbook form, timed in turns."""
    torch.manual_seed(0)
    inputs = case.inputs()
    forms = [case.fast(), case.textbook()]
    for form in forms:
        step(form, inputs)
    times: list[list[float]] = [[], []]
    for turn in range(case.rounds):
        for which in (0, 1) if turn % 2 else (1, 0):
            times[which].append(step(forms[which], inputs))
    return statistics.median(times[0]), statistics.median(times[1])


def peak(case: Case, form: str) -> float:
    """Return how many MiB one pass needs beyond its inputs, in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--peak", form, case.name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - it runs itself
    return float(done.stdout)


def measured_peak(case: Case, form: str) -> float:
    """Return the same for this process, which must have done nothing else; needs Linux."""
    torch.manual_seed(0)
    inputs = case.inputs()
    loss = case.fast() if form == "fast" else case.textbook()
    # Forget the peak so far, which was that of the imports.
    Path("/proc/self/clear_refs").write_text("5")
    before = _high_water()
    step(loss, inputs)
    return (_high_water() - before) / 1024


def _high_water() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def cases() -> list[Case]:
    """Return the cases of every file."""
    sys.path.insert(0, str(HERE))
    # Case files import this module by name, also where it runs as a script.
    sys.modules.setdefault("losses", sys.modules[__name__])
    found: list[Case] = []
    for file in sorted((HERE / "cases").glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"cases_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found += module.CASES
    return found


def main(words: list[str]) -> None:
    """Print a line for each case."""
    torch.set_num_threads(1)
    if words[:1] == ["--peak"]:
        print(measured_peak(next(case for case in cases() if case.name == words[2]), words[1]))
        return
    chosen = [case for case in cases() if not words or any(word in case.name for word in words)]
    print(f"{'case':38} {'ms':>9} {'textbook':>9} {'ratio':>6} {'MiB':>8} {'textbook':>9}")
    slower = []
    for case in chosen:
        fast, textbook = compare(case)
        memory = [peak(case, form) for form in ("fast", "textbook")]
        aim = f"  aim {case.reached:g} ms" if case.reached is not None else ""
        ratio = fast / textbook
        print(
            f"{case.name:38} {fast:9.2f} {textbook:9.2f} {ratio:6.2f} {memory[0]:8.1f} {memory[1]:9.1f}{aim}",
            flush=True,
        )
        if ratio > 1.1:
            slower.append(case.name)
    print(f"slower than their textbook form: {', '.join(slower) or 'none'}")


if __name__ == "__main__":
    main(sys.argv[1:])
