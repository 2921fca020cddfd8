"""What a distillation trains besides the student, kept beside a checkpoint of the plain student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kdcore.errors import WeightsError
from kdcore.pipeline.objective import Objective

REST = "distillation.pt"
_STUDENT = "models.student."


def save_rest(objective: Objective, folder: Path) -> None:
    """Write adapters, losses, balancer and further models of an Objective, if it has any state beyond the student."""
    state = _rest(objective)
    if state:
        torch.save(state, folder / REST)


def load_rest(objective: Objective, folder: Path) -> None:
    """Load what `save_rest` wrote; raises WeightsError if that is missing or another distillation's."""
    wanted, file = _rest(objective), folder / REST
    if not wanted:
        return
    if not file.is_file():
        raise WeightsError(
            f"{folder} has no {REST}, but this distillation also keeps {_shown(wanted)}",
            repair="resume from a checkpoint of the same distillation",
        )
    state = torch.load(file, map_location="cpu", weights_only=True)
    if state.keys() != wanted.keys():
        raise WeightsError(
            f"{file} is of another distillation: they differ in {_shown(state.keys() ^ wanted.keys())}",
            repair="resume with the config that the checkpoint was written with",
        )
    objective.load_state_dict(state, strict=False)


def _rest(objective: Objective) -> dict[str, Any]:
    return {name: value for name, value in objective.state_dict().items() if not name.startswith(_STUDENT)}


def _shown(names: Any) -> str:
    return ", ".join(sorted(names)[:5])
