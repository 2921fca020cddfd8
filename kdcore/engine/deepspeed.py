"""Several processes that split gradients and the optimizer's state, by DeepSpeed's ZeRO stages 1 and 2."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch import distributed as dist

from kdcore.config.config import Config
from kdcore.engine.partitioned import PartitionedLearner, deepspeed_errors
from kdcore.engine.several import Accelerated
from kdcore.errors import RunError

if TYPE_CHECKING:
    from kdcore.errors import Place

# DeepSpeed counts samples by it, for its own log; the engine's shares make the averages.
_UNUSED_BATCH_SIZE = 1


class Partitioned(Accelerated):
    """The processes that a launcher started together, each of which steps its part of all that is trained.

    DeepSpeed gathers the parameters after each step, so models are whole wherever they are looked at. What it splits
    lies in one flat tensor per group of the optimizer, and each process has as much of it as any other.
    """

    alike = False
    _learner = PartitionedLearner

    def __init__(self, config: Config) -> None:
        place = config.place("distributed", "strategy")
        if importlib.util.find_spec("deepspeed") is None:
            raise RunError(
                "strategy: deepspeed needs the package deepspeed, which is not installed",
                place=place,
                repair="pip install 'kdcore[deepspeed]'; strategy: fsdp needs no other package",
            )
        super().__init__(config)
        self.place = config.place("distributed", "config")
        self._options = dict(config.distributed.deepspeed)
        _prepare(self.device())
        _check(self.options(None), self.place)

    def options(self, clip_grad_norm: float | None) -> dict[str, Any]:
        """Return DeepSpeed's config with what the run decides."""
        return {
            "steps_per_print": None,
            # Any optimizer of torch that steps number by number is right, and checked to be one.
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            **self._options,
            "train_micro_batch_size_per_gpu": _UNUSED_BATCH_SIZE,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": clip_grad_norm or 0.0,
        }

    def collect(self, part: Tensor) -> list[Tensor]:
        """Return every process's tensor, all of one shape, on the CPU of the main process; nothing elsewhere."""
        own = part.detach().cpu()
        parts = [torch.empty_like(own) for _ in range(self.count)] if self.main else None
        dist.gather(own, parts, dst=0, group=self._control)
        return parts or []


def _prepare(device: torch.device) -> None:
    """Let DeepSpeed compute where the run does, and speak only if its `log_level` asks it to."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    # Newer versions of torch have other names for what DeepSpeed calls.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)


def _check(options: dict[str, Any], place: Place) -> None:
    """Have DeepSpeed judge the values of its config."""
    from deepspeed.runtime.config import DeepSpeedConfig

    with deepspeed_errors("refuses its config", place):
        DeepSpeedConfig(options)
