"""What the searchers share: a history, and a sampler of Optuna that is asked afresh each time."""

from __future__ import annotations

import hashlib
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import Trial

from kd_plugin_optuna.encoding import Encoding
from kd_plugin_optuna.history import COMPLETE, FAILED, Entry, History
from kd_plugin_optuna.quiet import quiet
from kd_plugin_optuna.replay import MARKS, give_up, replayed
from kd_plugin_optuna.shared import SharedStorage
from kdcore.search.objectives import Constraint, Objective
from kdcore.search.space import Point, Space
from kdcore.search.unseen import draw_unseen


class OptunaSearcher(ABC):
    """Asks a sampler of Optuna for points, and never suggests one twice.

    A suggestion is a function of the seed, of how many there were, and of the history: each time the
    history is replayed into a study in memory, and a new sampler is asked. So a state is plain data, and
    going on from it is exact. What a sampler proposes in vain (excluded, or known already) is asked for
    again up to `tries` times; then an unseen point is drawn at random.

    Arguments:
        seed: what the suggestions follow from, 0 or more; None is 0.
    """

    whole = True
    tries = 16

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed or 0
        self.count = 0
        self.history = History()
        self.shared: SharedStorage | None = None

    @abstractmethod
    def sampler(self, seed: int) -> BaseSampler:
        """Return a new sampler."""

    def setup(
        self,
        space: Space,
        objectives: Sequence[Objective],
        *,
        constraints: Sequence[Constraint] = (),
        storage: str | None = None,
    ) -> None:
        """Prepare for a search; raises KdcoreError if `storage` cannot be used, or holds another search."""
        self.space = space
        self.objectives = tuple(objectives)
        self.constraints = tuple(constraints)
        self.encoding = Encoding(space, whole=self.whole)
        if storage is not None:
            self.shared = SharedStorage(storage, space, self.objectives, self.constraints)

    def suggest(self) -> Point | None:
        """Return the next point, None if every point of the space is known."""
        if self.shared is not None:
            self.shared.pull(self.history)
        while True:
            entry = self._next()
            if entry is None:
                return None
            self.history.add(entry)
            # Another process may have begun with it in the meantime.
            if self.shared is None or self.shared.claim(entry, self.history):
                return dict(entry.point)

    def feedback(self, point: Mapping[str, Any], metrics: Mapping[str, float] | None) -> None:
        """Learn what came of a point; what is known already stays as it is."""
        entry = self.history.add(Entry(dict(point)))
        if entry.state in (COMPLETE, FAILED):
            return
        self._judge(entry, metrics)
        if self.shared is not None:
            self.shared.push(entry)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next suggestions depend on."""
        return {"count": self.count, "history": self.history.to_data()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.count = int(state["count"])
        self.history = History.from_data(state["history"])

    def _next(self) -> Entry | None:
        self.count += 1
        size = self.space.size()
        # With as many points known as there are, no sampler needs to be asked.
        entry = self._proposed() if size is None or len(self.history) < size else None
        if entry is not None:
            return entry
        point = draw_unseen(self.space, self.history.entries, random.Random(self._seed_now()))
        return None if point is None else Entry(point)

    def _proposed(self) -> Entry | None:
        """Return what the sampler proposes, None if nothing of it will do."""
        with quiet():
            study = replayed(self.history, self.encoding, self.objectives, self.sampler(self._seed_now()))
            for _ in range(self.tries):
                trial = study.ask(self.encoding.distributions if self.whole else None)
                entry = self._entry(study, trial)
                if entry.point not in self.history and entry.point in self.space:
                    return entry
                give_up(study, trial)
        return None

    def _entry(self, study: Study, trial: Trial) -> Entry:
        if self.whole:
            point = self.encoding.read(trial.params)
        else:
            point = {}
            for each in self.encoding.parents_first:
                if each.when(point):
                    point[each.path] = self.encoding.codes[each.path].suggest(trial, each.path)
            point = {path: point[path] for path in sorted(point)}
        attributes = study.get_trials(deepcopy=False)[trial.number].system_attrs
        marks = {key: value for key, value in attributes.items() if key.endswith(MARKS)}
        return Entry(point, marks=marks)

    def _judge(self, entry: Entry, metrics: Mapping[str, float] | None) -> None:
        """Fill in what came of a point; without a finite value for each objective and constraint it has failed."""
        names = [*(each.metric for each in self.objectives), *(each.metric for each in self.constraints)]
        values = [math.nan if metrics is None else metrics.get(name, math.nan) for name in names]
        if metrics is None or not all(map(math.isfinite, values)):
            entry.state = FAILED
            return
        entry.state = COMPLETE
        entry.values = tuple(float(metrics[each.metric]) for each in self.objectives)
        entry.violations = {str(each): each.violation(metrics) for each in self.constraints}

    def _seed_now(self) -> int:
        digest = hashlib.sha256(f"{self.seed} {self.count}".encode()).digest()
        return int.from_bytes(digest[:4], "big")
