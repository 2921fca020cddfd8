"""What a model costs: parameters, and the latency of one sample."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.address import Address
from kdcore.config.config import Argument, Constant, ModelConfig
from kdcore.pipeline.readers import batch_reader

_WARM_UP = 5
_BURSTS = 5
_RUNS = 15


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def measure_latency(model: nn.Module, config: ModelConfig, batch: Mapping[str, Any]) -> float | None:
    """Return the milliseconds of one sample's forward pass in eval mode: the best of several bursts' medians.

    None if the model is fed by something else than the batch.
    """
    call = one_sample(model, config, batch)
    return None if call is None else time_call(model, call)


def one_sample(model: nn.Module, config: ModelConfig, batch: Mapping[str, Any]) -> Callable[[], Any] | None:
    """Return a forward pass of the batch's first sample, or None if the model is fed by something else."""
    arguments = [*config.args, *config.kwargs.values()]
    if any(isinstance(each, Address) and not each.is_batch for each in arguments):
        return None
    args = [_first_row(each, batch) for each in config.args]
    kwargs = {key: _first_row(each, batch) for key, each in config.kwargs.items()}
    return lambda: model(*args, **kwargs)


def time_call(model: nn.Module, call: Callable[[], Any]) -> float:
    """Return the milliseconds of a call of a model in eval mode: the best of several bursts' medians."""
    # A compiled model is measured as it is exported, which is not compiled.
    with evaluating(model), torch.compiler.set_stance("force_eager"), torch.inference_mode():
        return _latency_ms(call, next(model.parameters(), torch.empty(0)).device)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a block with a model in eval mode, and put every module's mode back."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode


def _latency_ms(call: Callable[[], Any], device: torch.device) -> float:
    for _ in range(_WARM_UP):
        call()
    # A burst that other work disturbed is slower as a whole; the best one is the model's own.
    return min(statistics.median(_timed_ms(call, device) for _ in range(_RUNS)) for _ in range(_BURSTS))


def _timed_ms(call: Callable[[], Any], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return 1000 * (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _first_row(argument: Argument, batch: Mapping[str, Any]) -> Any:
    if isinstance(argument, Constant):
        return argument.value
    value = batch_reader(argument)(batch)
    return value[:1] if isinstance(value, Tensor) and value.dim() else value
