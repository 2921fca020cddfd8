"""What a distillation trains besides the student, kept beside a checkpoint of the plain student."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from kdcore.errors import Place, WeightsError
from kdcore.pipeline.objective import Objective
from kdcore.pipeline.readable import ALLOWED, MEND, not_readable, term_of, unreadable

REST = "distillation.pt"
_STUDENT = "models.student."


def save_rest(objective: Objective, folder: Path) -> None:
    """Write adapters, losses, balancer and further models of an Objective, if it has any state beyond the student.

    Raises:
        WiringError: a part keeps what could be written and not be read.
    """
    check_rest(objective)
    state = _rest(objective)
    if state:
        torch.save(state, folder / REST)


def check_rest(objective: Objective) -> None:
    """Raise WiringError if a part of an Objective keeps what could be written and not be read."""
    for key, value in _rest(objective).items():
        for where, found in unreadable(value, key):
            term = term_of(objective, key)
            raise not_readable(
                term.title if term else f"the part {key.rpartition('.')[0]!r}",
                where,
                found,
                term.config.place if term else Place(),
            )


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
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{file} holds what torch does not read without running code",
            repair=f"{ALLOWED} can be read; {MEND}, and train again",
        ) from error
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
