"""Processes that work, crash, are killed, or outlive the search that began them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kdcore.errors import RunError
from kdcore.search.job import Job, Outcome
from kdcore.search.record import State
from kdcore.search.workers import Event, Workers, exit_reason

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 120.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workers() -> Any:
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    with Workers(target="tests.search.targets:work") as found:
        yield found


def job(number: int, what: str, folder: Path) -> Job:
    return Job(number, str(folder), "", (what,), output=str(folder / "output.txt"))


def ends(workers: Workers, answer: bool = True) -> list[Event]:
    """Wait until nothing runs, and return how each ended."""
    found, deadline = [], time.monotonic() + DEADLINE_S
    while len(workers):
        assert time.monotonic() < deadline
        for event in workers.wait(1.0):
            if event.kind == "asked":
                workers.answer(event.number, answer)
            else:
                found.append(event)
    return found


def test_a_job_ends_with_what_it_returns_and_prints_into_its_folder(workers: Workers, tmp_path: Path) -> None:
    workers.start(job(5, "work", tmp_path))
    (event,) = ends(workers)
    assert (event.number, event.kind, event.data.state) == (5, "ended", State.COMPLETE)
    assert (tmp_path / "output.txt").read_text() == "printed by 5\n"


@pytest.mark.parametrize("what", ["SIGTERM", "SIGINT"])
def test_a_job_that_was_told_to_end_can_go_on(workers: Workers, tmp_path: Path, what: str) -> None:
    workers.start(job(0, what, tmp_path))
    (event,) = ends(workers)
    assert (event.kind, event.data) == ("ended", Outcome(None))


def test_the_process_that_jobs_are_forked_from_leaves_signals_to_the_search(workers: Workers, tmp_path: Path) -> None:
    workers.start(job(0, "work", tmp_path))
    assert workers._nursery is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        workers._nursery.send_signal(number)
    workers.start(job(1, "work", tmp_path))
    assert [event.data.state for event in ends(workers)] == [State.COMPLETE] * 2


@pytest.mark.parametrize("answer", [True, False])
def test_a_job_goes_on_only_if_the_answer_says_so(workers: Workers, tmp_path: Path, answer: bool) -> None:
    workers.start(job(0, "ask", tmp_path))
    (event,) = ends(workers, answer)
    assert event.data.state is (State.COMPLETE if answer else State.INFEASIBLE)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("exit", "its process ended with exit code 7"),
        ("raise", "its process ended with exit code 1"),
        ("SIGKILL", "its process was ended by SIGKILL (killed, by the system if memory ran out)"),
        ("SIGSEGV", "its process was ended by SIGSEGV (crashed: an error in compiled code)"),
    ],
)
def test_a_job_that_crashes_says_how_and_harms_no_other(
    workers: Workers, tmp_path: Path, what: str, reason: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    workers.start(job(0, what, tmp_path))
    workers.start(job(1, "work", other))
    by_number = {event.number: event for event in ends(workers)}
    assert (by_number[0].kind, by_number[0].data) == ("died", reason)
    assert by_number[1].data.state is State.COMPLETE
    if what == "raise":
        assert "raised on purpose" in (tmp_path / "output.txt").read_text()


def test_two_jobs_at_once_have_different_slots(workers: Workers, tmp_path: Path) -> None:
    workers.start(job(0, "work", tmp_path))
    workers.start(job(1, "work", tmp_path))
    assert {event.data.metrics["slot"] for event in ends(workers)} == {0, 1}


def test_what_the_first_job_imports_is_there_for_the_next(tmp_path: Path) -> None:
    with Workers(target="tests.search.targets:work") as fresh:
        found = []
        for number, what in enumerate(("work", "import", "work")):
            # Learnt from the first job only, so that one is made to be the one that imports.
            fresh._learnt = number == 0
            fresh.start(job(number, what, tmp_path))
            found.append(ends(fresh)[0].data.metrics["wave"])
    assert found == [False, True, True]


def test_a_machine_that_cannot_begin_any_trial_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcore.search.workers.sys.executable", "/bin/false")
    with Workers(target="tests.search.targets:work") as broken:
        broken.start(job(0, "work", tmp_path))
        with pytest.raises(RunError, match=r"has ended before the first of them\n.*-m kdcore.search.warm says why"):
            ends(broken)


def test_a_search_that_is_killed_takes_its_jobs_along(tmp_path: Path) -> None:
    script = (
        "import sys; from kdcore.search.job import Job; from kdcore.search.workers import Workers\n"
        "with Workers(target='tests.search.targets:work') as workers:\n"
        f"    workers.start(Job(0, {str(tmp_path)!r}, '', ('wait',)))\n"
        "    while True: workers.wait(1.0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", script], env=environment)
    begun = tmp_path / "begun"
    await_(lambda: begun.exists() and begun.read_text())
    child = int(begun.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    await_(lambda: not alive(child))


def await_(condition: Any) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_exit_is_told_in_words() -> None:
    assert exit_reason(0) == "its process ended with exit code 0"
    assert exit_reason(-200) == "its process was ended by signal 200"
