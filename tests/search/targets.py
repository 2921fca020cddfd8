"""What the worker processes of tests do."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from kdcore.search.job import Channel, Job, Outcome
from kdcore.search.record import State


def work(job: Job, channel: Channel) -> Outcome:
    """Do what the first override says."""
    what = job.overrides[0]
    if what == "exit":
        os._exit(7)
    if what == "raise":
        raise RuntimeError("raised on purpose")
    if what.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, what))
        time.sleep(60)
    if what == "ask":
        return Outcome(State.COMPLETE if channel.ask("measured", {"parameters": 1}) else State.INFEASIBLE)
    if what == "import":
        import wave  # noqa: F401 - nothing else imports it
    if what == "wait":
        Path(job.folder, "begun").write_text(str(os.getpid()))
        time.sleep(60)
    print(f"printed by {job.number}")
    return Outcome(State.COMPLETE, {"slot": job.slot, "wave": "wave" in sys.modules, "parent": os.getppid()})
