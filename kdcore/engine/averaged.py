"""What learns in processes that each hold all of it: DistributedDataParallel, by Hugging Face Accelerate."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from kdcore.config.config import StageConfig
from kdcore.engine.learner import Learner
from kdcore.engine.processes import Processes
from kdcore.pipeline.objective import Objective


class AveragedLearner(Learner):
    """The Objective and the optimizer of a stage, whose gradients are averaged; buffers stay each process's own."""

    def __init__(
        self, processes: Processes, objective: Objective, optimizer: torch.optim.Optimizer, stage: StageConfig
    ) -> None:
        super().__init__(processes, objective, optimizer, stage)
        options = DistributedDataParallelKwargs(find_unused_parameters=stage.find_unused, broadcast_buffers=False)
        cpu = processes.device().type == "cpu"
        self._accelerator = Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=[options])
        with warnings.catch_warnings():
            # Newer versions of torch call the option forward_sync_buffers, which older ones do not know.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self.forward = self._accelerator.prepare_model(objective)

    def apart(self) -> contextlib.AbstractContextManager[Any]:
        """Keep the gradients of passes within to each process; the next pass outside averages all."""
        return self.forward.no_sync()  # type: ignore[attr-defined,no-any-return]

    def close(self) -> None:
        """Let go of the wrapped Objective, so that its memory is free for the next stage."""
        del self.forward
        self._accelerator.free_memory()
