"""Several processes, on Hugging Face Accelerate."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch import distributed as dist

from kdcore.config.config import Config
from kdcore.engine.averaged import AveragedLearner
from kdcore.engine.learner import Learner
from kdcore.engine.nonfinite import DivergedError
from kdcore.engine.processes import Processes
from kdcore.errors import EndedElsewhereError, RunError

# How long a process whose neighbours are gone waits for one of them to have said why.
_PATIENCE_S = 5.0
_MOMENT_S = 1.0
_BETWEEN_S = 0.02

_UNSUPPORTED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
_LOST = ("gloo", "Connection closed", "Connection reset", "Broken pipe", "NCCL", "TCPStore")


class Accelerated(Processes):
    """The processes that a launcher started together; gradients are averaged by DistributedDataParallel."""

    _learner: type[Learner] = AveragedLearner

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        kind = _device_type(config)
        _check_launcher(config)
        self._state = PartialState(cpu=kind == "cpu")
        self.rank, self.count = int(self._state.process_index), int(self._state.num_processes)
        self._control, self._store = _channels()
        self._pending: tuple[Any, Tensor] | None = None

    def device(self) -> torch.device:
        """Return the device of this process: its own among those of its machine."""
        return torch.device(self._state.device)

    def sum(self, values: Mapping[str, Tensor | float]) -> Mapping[str, Tensor | float]:
        """Return the sum of each number over all processes, in one operation on the device."""
        if not values:
            return values
        parts = [torch.as_tensor(each, dtype=torch.float64, device=self.device()) for each in values.values()]
        total = torch.stack(parts)
        dist.all_reduce(total)
        return dict(zip(values, total.float().unbind(), strict=True))

    def any(self, found: bool) -> bool:
        """Whether it is so in any process; waits for all of them."""
        flag = torch.tensor(int(found))
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._control)
        return bool(flag)

    def vote(self, number: int) -> int:
        """Return the largest number of the vote before, which has had time to come in, and begin the next one."""
        before, ballot = self._pending, torch.tensor(number)
        work = dist.all_reduce(ballot, dist.ReduceOp.MAX, group=self._control, async_op=True)
        self._pending = work, ballot
        if before is None:
            return 0
        before[0].wait()
        return int(before[1])

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, tensors on the CPU."""
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, _packed(value), group=self._control)
        return [_unpacked(each) for each in found]

    def share(self, value: Any) -> Any:
        """Return the main process's value, tensors on the CPU."""
        held = [_packed(value) if self.main else b""]
        dist.broadcast_object_list(held, src=0, group=self._control)
        return value if self.main else _unpacked(held[0])

    def align(self, *modules: nn.Module, parameters: bool = True) -> None:
        """Broadcast the main process's buffers and parameters."""
        for module in modules:
            for tensor in [*module.buffers(), *(module.parameters() if parameters else ())]:
                dist.broadcast(tensor.detach(), 0)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Let the first process that fails say why; the others, which lose it, end without a word."""
        self._pending = None
        try:
            yield
        except KeyboardInterrupt as signal:
            # Launchers send one to all others when a process has failed.
            if self._claimed():
                raise EndedElsewhereError(self.rank) from signal
            raise
        except Exception as error:
            told_elsewhere = False
            if _is_lost(error):
                told_elsewhere = self._claimed(patient=True)
                error = error if told_elsewhere else _unsaid(error)
            if isinstance(error, DivergedError):
                told_elsewhere = not self._diverged_first(error.step)
            if told_elsewhere or not self._claim():
                self._unwound(everywhere=False)
                raise EndedElsewhereError(self.rank) from error
            self._unwound(everywhere=True)
            raise error from error.__cause__

    def _claim(self) -> bool:
        """Whether this process is the first to fail."""
        try:
            return bool(self._store.add("kdcore/failed", 1) == 1)
        except RuntimeError:  # it went with the process that held it, the main one, which has spoken
            return False

    def _unwound(self, *, everywhere: bool) -> None:
        """Note that this process has nothing left to write; whoever speaks, and so ends the others, waits for theirs.

        Not for long: a process that still waits for this one's tensors learns of its end by nothing else.
        """
        keys = [f"kdcore/unwound/{rank}" for rank in range(self.count)]
        with contextlib.suppress(RuntimeError):  # the store went with the main process
            self._store.set(keys[self.rank], "")
            if everywhere:
                self._await(keys, _MOMENT_S)

    def _await(self, keys: list[str], seconds: float) -> bool:
        """Wait for keys, and return whether they came; the store's own waiting logs a warning when they do not."""
        deadline = time.monotonic() + seconds
        while not (found := self._store.check(keys)) and time.monotonic() < deadline:
            time.sleep(_BETWEEN_S)
        return bool(found)

    def _diverged_first(self, step: int) -> bool:
        """Whether no other process found a loss that was not finite in an earlier step: only that one is the cause."""
        keys = [f"kdcore/diverged/{rank}" for rank in range(self.count)]
        try:
            self._store.set(keys[self.rank], str(step))
            # Those that find one as well find it at the same time.
            self._await(keys, _MOMENT_S)
            found = [(int(self._store.get(key)), rank) for rank, key in enumerate(keys) if self._store.check([key])]
        except RuntimeError:  # the store went with the main process, which has spoken
            return False
        return min(found) == (step, self.rank)

    def _claimed(self, *, patient: bool = False) -> bool:
        """Whether a process has said that it speaks for all."""
        with contextlib.suppress(RuntimeError):  # the store went with the main process
            return self._await(["kdcore/failed"], _PATIENCE_S if patient else 0)
        return False


@functools.cache
def _channels() -> tuple[Any, Any]:
    """Return a group for the engine's own messages, and a store that outlives a broken group; made once."""
    control = dist.new_group(backend="gloo")
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # Its own connection: the default store's is in use wherever a process hangs.
    store = dist.TCPStore(host, port, is_master=False)  # type: ignore[attr-defined]
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return control, dist.PrefixStore(f"attempt-{attempt}", store)  # type: ignore[attr-defined]


def _device_type(config: Config) -> str:
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if ":" in config.device:
        raise RunError(
            f"device {config.device!r} is one device, and this run has several processes",
            place=config.place("device"),
            repair="write device: auto, cuda or cpu: each process takes a device of its own",
        )
    return config.device


def _check_launcher(config: Config) -> None:
    for variable, name in _UNSUPPORTED.items():
        if os.environ.get(variable, "").lower() in {"1", "true"}:
            raise RunError(
                f"the launcher asks for {name} ({variable}), which a run cannot use",
                place=config.place(),
                repair="start it with torchrun or accelerate launch --multi_gpu; to split what is trained, write "
                "distributed: {strategy: fsdp}, or {strategy: deepspeed, config: ...}, in the config",
            )


def _packed(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(data: bytes) -> Any:
    # What the processes of one run send one another is as trustworthy as they are.
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)


def _is_lost(error: BaseException | None) -> bool:
    """Whether an error says that another process is gone, or came from one that does."""
    while error is not None:
        if isinstance(error, dist.DistError) or (
            isinstance(error, RuntimeError) and any(word in str(error) for word in _LOST)
        ):
            return True
        error = error.__cause__
    return False


def _unsaid(error: Exception) -> RunError:
    failed = RunError(
        f"another process of this run ended, and none has said why: {str(error).splitlines()[0]}",
        repair="look at the launcher's output: a process that was killed (is there memory enough?) says nothing; "
        "resumed, the run goes on from the latest checkpoint",
    )
    failed.__cause__ = error
    return failed
