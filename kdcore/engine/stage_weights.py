"""Where the weights of a stage come from, and where they go."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kdcore.config.config import Config, StageConfig
from kdcore.config.stages import INITIAL
from kdcore.digest import digest_of
from kdcore.engine.checkpoint import save_tensors
from kdcore.engine.folder import RunFolder
from kdcore.engine.processes import Processes
from kdcore.pipeline.assembly import Assembly
from kdcore.pipeline.starts import take, tensors_to_take
from kdcore.pipeline.weights import read_tensors


class StageWeights:
    """The weights of a stage in the assembly and in the run folder."""

    def __init__(self, stage: StageConfig, assembly: Assembly, folder: RunFolder, processes: Processes) -> None:
        self.stage = stage
        self.assembly = assembly
        self.folder = folder
        self.processes = processes

    def start(self) -> None:
        """Give the models those that the stage starts from."""
        self.assembly.begin(self.stage)
        for name, start in self.stage.start.items():
            module = self.assembly.models[name]
            if self.processes.main:
                names = tensors_to_take(name, start, module, self.assembly.models[start.model], self.stage.place)
                take(module, read_tensors(self.folder.weights(start.stage, start.model), self.stage.place), names)
            self.processes.align(module)

    def put_together(self) -> None:
        """Build what was trained anew, whole, as resuming would; the split modules end with the Objective."""
        for name in self.stage.train:
            state = self.processes.whole(self.assembly.module(name).state_dict(), everywhere=True)
            self.assembly.renew(name, state)

    def save(self, ending: Callable[[Mapping[str, str]], None]) -> dict[str, str]:
        """Save those of what was trained, and return their digests, which `ending` hears of before."""
        states = {name: self.assembly.module(name).state_dict() for name in self.stage.train}
        digests = {name: digest_of(state) for name, state in states.items()}
        ending(digests)
        for name, state in states.items():
            save_tensors(state, self.folder.weights(self.stage.name, name))
            if name in self.assembly.models:
                save_tensors(state, self.folder.final(name))
        return digests


def save_initial(config: Config, assembly: Assembly, folder: RunFolder) -> None:
    """Keep the initial weights of the models that some stage starts from."""
    starts = [start for stage in config.stages for start in stage.start.values()]
    for name in {start.model for start in starts if start.stage == INITIAL}:
        save_tensors(assembly.models[name].state_dict(), folder.weights(INITIAL, name))
