"""What a model costs before and after: parameters, bytes, operations and time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdcore.compaction.call import Call
from kdcore.engine.cost import count_parameters, time_call


@dataclass(frozen=True)
class Costs:
    """Parameters (tied ones once), bytes of all weights and buffers, operations and milliseconds of one sample.

    `flops` counts a multiplication and an addition as two, of matrix products, convolutions and attention only, as
    torch's counter does.
    """

    parameters: int
    bytes: int
    flops: int
    latency_ms: float


def measure(model: nn.Module, call: Call) -> Costs:
    """Measure a model on the first sample of a call, in eval mode, on the device where it is."""
    one = call.rows(1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        one.run(model)
    size = sum(each.numel() * each.element_size() for each in _stored(model))
    latency = time_call(model, lambda: one.run(model))
    return Costs(count_parameters(model), size, counter.get_total_flops(), latency)


def _stored(model: nn.Module) -> list[Tensor]:
    found = {id(each): each for each in model.state_dict(keep_vars=True).values() if isinstance(each, Tensor)}
    return list(found.values())
