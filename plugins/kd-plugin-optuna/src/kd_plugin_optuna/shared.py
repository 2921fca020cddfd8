"""A history that several processes share, by a storage of Optuna."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from kd_plugin_optuna.history import COMPLETE, FAILED, OPEN, Entry, History
from kd_plugin_optuna.quiet import quiet
from kd_plugin_optuna.replay import MARKS, directions
from kdcore.errors import KdcoreError
from kdcore.search.domain import Choices
from kdcore.search.objectives import Constraint, Objective
from kdcore.search.space import Space, point_key
from kdcore.search.values import shown, token

STUDY = "kdcore"

_SEARCH, _POINT, _WITHDRAWN = "kdcore:search", "kdcore:point", "kdcore:withdrawn"
_CONSTRAINT = "constraints:"
_STATES = {OPEN: TrialState.RUNNING, COMPLETE: TrialState.COMPLETE, FAILED: TrialState.FAIL}
_NAMES = {TrialState.RUNNING: OPEN, TrialState.COMPLETE: COMPLETE, TrialState.FAIL: FAILED}


class SharedStorage:
    """A journal file, or a database by its URL; one search to a storage.

    Neither is ever unpickled: a journal is lines of JSON, a database holds texts and numbers.

    Arguments:
        storage: a file, made if there is none, or a URL such as `sqlite:///search.db`.
        space, objectives, constraints: what is searched; another process must search the same.

    Raises:
        KdcoreError: the storage cannot be used, or holds another search.
    """

    def __init__(
        self, storage: str, space: Space, objectives: Sequence[Objective], constraints: Sequence[Constraint]
    ) -> None:
        self.name = storage
        self.space = space
        self.finished: set[int] = set()
        try:
            with quiet():
                self.storage = _opened(storage)
                self.study = self._study(objectives)
                self._check_search(objectives, constraints)
        except KdcoreError:
            raise
        except Exception as error:  # drivers, databases and files fail in ways of their own
            raise self._unusable(error) from error

    def pull(self, history: History) -> None:
        """Take over what other processes have begun and finished."""
        for trial in self._trials():
            if trial._trial_id in self.finished:
                continue
            entry = self._read(trial)
            if entry is not None:
                known = history.add(entry)
                if known.state == OPEN and entry.state != OPEN:
                    known.state, known.values, known.violations = entry.state, entry.values, entry.violations
            if trial.state.is_finished():
                self.finished.add(trial._trial_id)

    def claim(self, entry: Entry, history: History) -> bool:
        """Announce that the point is being tried; False if another process was first, whose entry is then taken over.

        The announcement is one write, and writes have an order: of two processes with one point, that with the lower
        trial number has it.
        """
        entry.shared = self._create(entry)
        trials = {trial._trial_id: trial for trial in self._trials()}
        number = trials[entry.shared].number
        for trial in trials.values():
            if trial.number < number and self._key(trial) == point_key(entry.point):
                self.storage.set_trial_user_attr(entry.shared, _WITHDRAWN, True)
                self.storage.set_trial_state_values(entry.shared, TrialState.FAIL)
                del history.entries[point_key(entry.point)]
                self.pull(history)
                return False
        return True

    def push(self, entry: Entry) -> None:
        """Write down what came of a point."""
        if entry.shared is None:
            entry.shared = self._create(entry)
            return
        if self.storage.get_trial(entry.shared).state.is_finished():
            return
        for text, violation in entry.violations.items():
            self.storage.set_trial_system_attr(entry.shared, _CONSTRAINT + text, violation)
        values = list(entry.values) if entry.state == COMPLETE else None
        self.storage.set_trial_state_values(entry.shared, _STATES[entry.state], values)

    def _create(self, entry: Entry) -> int:
        complete = entry.state == COMPLETE
        shown_params = _as_shown(self.space, entry.point)
        trial = create_trial(
            state=_STATES[entry.state],
            params={path: value for path, (value, _) in shown_params.items()},
            distributions={path: distribution for path, (_, distribution) in shown_params.items()},
            values=list(entry.values) if complete else None,
            user_attrs={_POINT: entry.point},
            system_attrs=dict(entry.marks),
            constraints=entry.violations if complete and entry.violations else None,
        )
        trial.datetime_start = datetime.datetime.now()
        return self.storage.create_new_trial(self.study, template_trial=trial)

    def _trials(self) -> list[FrozenTrial]:
        return self.storage.get_all_trials(self.study, deepcopy=False)

    def _key(self, trial: FrozenTrial) -> str | None:
        entry = self._read(trial)
        return None if entry is None else point_key(entry.point)

    def _read(self, trial: FrozenTrial) -> Entry | None:
        """Return a trial of the storage as an entry; None for one that was withdrawn, or is none of ours."""
        point = trial.user_attrs.get(_POINT)
        if not isinstance(point, dict) or _WITHDRAWN in trial.user_attrs or point not in self.space:
            return None
        state = _NAMES.get(trial.state)
        if state is None:
            return None
        marks = {key: value for key, value in trial.system_attrs.items() if key.endswith(MARKS)}
        values = tuple(trial.values or ()) if state == COMPLETE else ()
        return Entry(point, state, values, dict(trial.constraints), marks, trial._trial_id)

    def _study(self, objectives: Sequence[Objective]) -> int:
        optuna.create_study(
            study_name=STUDY, storage=self.storage, directions=directions(objectives), load_if_exists=True
        )
        return self.storage.get_study_id_from_name(STUDY)

    def _check_search(self, objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> None:
        own = {
            "space": self.space.describe(),
            "objectives": [f"{each.goal} {each.metric}" for each in objectives],
            "constraints": [str(each) for each in constraints],
        }
        if _SEARCH not in self.storage.get_study_user_attrs(self.study):
            self.storage.set_study_user_attr(self.study, _SEARCH, own)
        other = self.storage.get_study_user_attrs(self.study)[_SEARCH]
        found = self.space.differences(other["space"])
        for key in ("objectives", "constraints"):
            if token(own[key]) != token(other[key]):
                found.append(f"its {key} are {shown(other[key], 200)}, here they are {shown(own[key], 200)}")
        if found:
            raise KdcoreError(
                f"the storage {self.name!r} holds another search: {'; '.join(found)}",
                repair="name another storage, or make the two configs agree",
            )

    def _unusable(self, error: Exception) -> KdcoreError:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        repair = "check the path or the URL, and that it can be written"
        if isinstance(error, ImportError):
            repair = f"install the database's driver: {reason}"
        elif isinstance(error, json.JSONDecodeError):
            repair = "this file is not a journal of Optuna: name another one"
        return KdcoreError(f"the storage {self.name!r} cannot be used: {reason}", repair=repair)


def _opened(storage: str) -> BaseStorage:
    if "://" in storage:
        return RDBStorage(storage)
    Path(storage).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(storage))


def _as_shown(space: Space, point: Mapping[str, Any]) -> dict[str, tuple[Any, BaseDistribution]]:
    """Return the values of a point as Optuna's own tools show them; the point itself stands beside."""
    found: dict[str, tuple[Any, BaseDistribution]] = {}
    for path, value in point.items():
        domain = space[path].domain
        if isinstance(domain, Choices):
            texts = [each if isinstance(each, str) else token(each) for each in domain]
            options = CategoricalDistribution(texts if len(set(texts)) == len(texts) else list(map(token, domain)))
            chosen = [token(each) for each in domain].index(token(value))
            found[path] = (options.choices[chosen], options)
        elif domain.integer:
            found[path] = (int(value), IntDistribution(int(domain.low), int(domain.high), log=domain.log))
        else:
            found[path] = (float(value), FloatDistribution(domain.low, domain.high, log=domain.log))
    return found
