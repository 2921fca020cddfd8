"""A history as a study of Optuna in memory."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection, create_study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from kd_plugin_optuna.encoding import Encoding
from kd_plugin_optuna.history import COMPLETE, OPEN, Entry, History
from kdcore.search.objectives import Objective

# What a genetic sampler notes of a trial and must be kept with it.
MARKS = ":generation"

_STATES = {OPEN: TrialState.RUNNING, COMPLETE: TrialState.COMPLETE}


def replayed(history: History, encoding: Encoding, objectives: Sequence[Objective], sampler: BaseSampler) -> Study:
    """Return a study that holds the history; what has failed is left out, as samplers pass over it."""
    study = create_study(storage=InMemoryStorage(), sampler=sampler, directions=directions(objectives))
    for entry in history:
        if entry.state in _STATES:
            study.add_trial(as_trial(entry, encoding))
    return study


def directions(objectives: Sequence[Objective]) -> list[StudyDirection]:
    """Return which way each objective is better, in Optuna's words."""
    return [StudyDirection.MAXIMIZE if each.maximize else StudyDirection.MINIMIZE for each in objectives]


def as_trial(entry: Entry, encoding: Encoding) -> FrozenTrial:
    """Return an entry as Optuna writes it."""
    codes = encoding.write(entry.point)
    complete = entry.state == COMPLETE
    return create_trial(
        state=_STATES[entry.state],
        params=codes,
        distributions={path: encoding.codes[path].distribution for path in codes},
        values=list(entry.values) if complete else None,
        system_attrs=dict(entry.marks),
        constraints=entry.violations if complete and entry.violations else None,
    )


def give_up(study: Study, trial: Trial) -> None:
    """End a trial whose point will not do, so that samplers pass over it."""
    study.tell(trial, state=TrialState.FAIL)
