"""What a model costs: parameters, bytes, FLOPs and latency."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdcore.config.config import Config, ModelConfig
from kdcore.engine.cost import count_parameters, evaluating, measure_latency, one_sample
from kdcore.engine.data import Datasets
from kdcore.engine.device import to_device
from kdcore.errors import RunError
from kdcore.pipeline.randomness import forked_generators
from kdcore.search.objectives import MEASURES

PARAMETERS, BYTES, FLOPS, LATENCY = MEASURES


def count_bytes(model: nn.Module) -> int:
    """Return the bytes of parameters and of the buffers that are saved; what is tied counts once."""
    tensors = [each for each in model.state_dict().values() if isinstance(each, Tensor)]
    # By where they are: tied tensors are one place under several names.
    return sum({(each.data_ptr(), each.nbytes): each.nbytes for each in tensors}.values())


def count_flops(model: nn.Module, config: ModelConfig, batch: Mapping[str, Any]) -> int:
    """Return the floating-point operations of one sample's forward pass in eval mode, by torch's own counter.

    A multiplication and the addition that follows are two. Matrix products, convolutions and attention
    are counted, and what is made of them; element-wise operations and custom kernels are not.

    Raises:
        RunError: the model is fed by another model.
    """
    call = one_sample(model, config, batch)
    if call is None:
        raise RunError(
            f"the FLOPs of {config.name!r} cannot be counted: it is fed by another model", place=config.place
        )
    counter = FlopCounterMode(display=False)
    # Not in inference mode, where a linear layer is no matrix product to the counter.
    with evaluating(model), torch.no_grad(), counter:
        call()
    return int(counter.get_total_flops())


def measure(
    config: Config, name: str, device: torch.device, wanted: Collection[str], model: nn.Module | None = None
) -> dict[str, float]:
    """Return parameters and bytes of the model so named, and FLOPs and latency if they are wanted.

    Arguments:
        config: of the run; the last stage's training data feeds the model.
        name: which model.
        device: where latency is measured; FLOPs do not depend on it.
        wanted: names of measures; FLOPs and latency need a sample, which may take time to get.
        model: the live model; by default one is built, with random weights.
    """
    part = config.models[name]
    if model is None:
        assert part.part is not None
        with forked_generators(config.seed):
            model = part.part.build()
    found: dict[str, float] = {PARAMETERS: count_parameters(model), BYTES: count_bytes(model)}
    if FLOPS in wanted or LATENCY in wanted:
        model.to(device)
        batch = to_device(_example(config), device)
        if FLOPS in wanted:
            found[FLOPS] = count_flops(model, part, batch)
        if LATENCY in wanted:
            latency = measure_latency(model, part, batch)
            if latency is None:
                raise RunError(
                    f"the latency of {name!r} cannot be measured: it is fed by another model", place=part.place
                )
            found[LATENCY] = latency
    return found


def _example(config: Config) -> dict[str, Any]:
    stage = config.stages[-1]
    loader = Datasets(config.data).loader(stage.data["train"], config.seed, stage=stage.name)
    with forked_generators():
        return loader.first_batch()
