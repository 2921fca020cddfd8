"""Jobs that are all known beforehand, run to their ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kdcore.engine.interrupt import Interrupt, Interrupted
from kdcore.search.job import Job, Outcome
from kdcore.search.progress import SearchProgress
from kdcore.search.record import State
from kdcore.search.workers import Event, Workers

_TICK_S = 0.2


def run_batch(
    jobs: Sequence[Job],
    workers: Workers,
    at_once: int,
    interrupt: Interrupt,
    progress: SearchProgress,
    ended: Callable[[Job, Outcome], None],
) -> None:
    """Run jobs, at most so many at once, and tell of each how it ended.

    Raises:
        Interrupted: a signal came; what ran has saved its state.
    """
    ahead, by_number = list(jobs), {job.number: job for job in jobs}

    def handle(event: Event) -> None:
        if event.kind == "told":
            progress.trial_advanced(event.number, event.data)
        elif event.kind == "asked":
            workers.answer(event.number, go=True)
        else:
            outcome = Outcome(State.FAILED, reason=event.data) if event.kind == "died" else event.data
            progress.run_ended(event.number)
            if outcome.state is not None:
                ended(by_number[event.number], outcome)

    with interrupt.deferred():
        try:
            while ahead or len(workers):
                while ahead and len(workers) < at_once:
                    job = ahead.pop(0)
                    progress.trial_started(job.number, {})
                    workers.start(job)
                for event in workers.wait(_TICK_S):
                    handle(event)
                interrupt.check()
                progress.tick()
        except Interrupted:
            for event in workers.interrupt():
                handle(event)
            raise
