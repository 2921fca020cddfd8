"""Checks of the section `search:`: everything about a search that can be known before its first trial."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kdcore.component import CheckContext, Kind
from kdcore.config.checker import Checker, expand
from kdcore.config.config import Part, StageConfig
from kdcore.config.metric_names import is_model_term, metric_names
from kdcore.config.overrides import apply_overrides
from kdcore.config.search_config import FinalConfig, HalvingConfig, SearchConfig
from kdcore.config.search_space import read_space
from kdcore.config.search_values import ValueChecker
from kdcore.config.source import Path, Source
from kdcore.config.trial import assignments, without_search
from kdcore.errors import ConfigError, Problem, suggestion
from kdcore.search.objectives import MEASURES, Constraint, Objective, contradiction
from kdcore.search.space import Parameter, Space

Trial = Callable[[Source], tuple[Sequence[StageConfig], list[Problem]]]

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
_DATABASES = ("sqlite", "mysql", "mariadb", "postgresql", "oracle", "mssql")


def check_search(checker: Checker, data: Mapping[str, Any], trial: Trial | None) -> SearchConfig | None:
    """Check the section, if there is one; None if it is wrong, with its problems noted.

    Arguments:
        checker: collects the problems.
        data: the whole config, every default written out.
        trial: returns the stages of a source without `search:`, and what is wrong with it; None
            where the values of the space are not to be tried.
    """
    node = data.get("search")
    if not isinstance(node, dict):
        return None
    return _SearchChecker(checker, data, node, trial).check()


class _SearchChecker:
    def __init__(self, checker: Checker, data: Mapping[str, Any], node: dict[str, Any], trial: Trial | None) -> None:
        self.checker = checker
        self.data = data
        self.node = node
        self.trial = trial

    def check(self) -> SearchConfig | None:
        before = len(self.checker.problems)
        parameters, space, flaws = read_space(self.node.get("space"), self.node.get("exclude"))
        for flaw in flaws:
            self.problem(flaw.what, *flaw.where, repair=flaw.repair)
        stages = self._values(parameters, space)
        objectives, constraints = self._objectives(stages), self._constraints(stages)
        searcher = self._searcher(space, objectives)
        self._ends(space)
        stop_early = self._stop_early(objectives, stages)
        if space is None or searcher is None or not objectives or len(self.checker.problems) > before:
            return None
        final = self.node.get("final")
        return SearchConfig(
            searcher=searcher,
            space=space,
            objectives=tuple(objectives),
            constraints=tuple(constraints),
            max_trials=self.node.get("max_trials"),
            timeout_s=self.node.get("timeout_s"),
            jobs=self.node.get("jobs", 1),
            trial=self._mapping("trial"),
            final=FinalConfig(**final) if isinstance(final, dict) else None,
            stop_early=stop_early,
            storage=self.node.get("storage"),
            place=self.checker.source.place(("search",)),
        )

    def problem(self, what: str, *where: str | int, repair: str = "", key: bool = False) -> None:
        self.checker.problem(what, ("search", *where), repair, key=key)

    def _mapping(self, *keys: str) -> dict[str, Any]:
        node: Any = self.node
        for key in keys:
            node = node.get(key) if isinstance(node, dict) else None
        return node if isinstance(node, dict) else {}

    def _values(self, parameters: Sequence[Parameter], space: Space | None) -> Sequence[StageConfig]:
        """Try the overrides and every value of the space; returns the stages of a trial, none if they are not known."""
        if self.trial is None:
            return ()
        base = without_search(self.checker.source)
        full = ValueChecker(self.checker, base, self.data, self._problems)
        overrides = self._sound(full, "trial")
        finals = self._sound(full, "final", "overrides")
        full.overrides(finals, ("search", "final", "overrides"))
        full.overrides(overrides, ("search", "trial"))
        try:
            trial = apply_overrides(base, assignments(overrides))
        except ConfigError:
            # Each of them was tried above.
            trial = base
        tried = ValueChecker(self.checker, trial, self.data, self._problems)
        space_node = self.node.get("space")
        paths = space_node if isinstance(space_node, dict) else {}
        found = {path: full.path(path, ("search", "space", path), paths) for path in paths}
        self._check_clashes(found, overrides)
        known = [each for each in parameters if found[each.path] is not None]
        tried.parameters(known, space if len(known) == len(paths) else None)
        return self.trial(trial)[0]

    def _sound(self, values: ValueChecker, *keys: str) -> dict[str, Any]:
        """Return the overrides under `keys` whose paths lead somewhere."""
        given = self._mapping(*keys)
        return {path: value for path, value in given.items() if values.path(path, ("search", *keys, path)) is not None}

    def _check_clashes(self, found: Mapping[str, Path | None], overrides: Mapping[str, Any]) -> None:
        first: dict[Path, str] = {}
        for text, path in found.items():
            if path is None:
                continue
            if path in first:
                what = f"{text} and {first[path]} are the same place of the config"
                self.problem(what, "space", text, repair="take one of them out", key=True)
            first.setdefault(path, text)
            if text in overrides:
                what = f"the space varies {text}, so trial: cannot set it"
                self.problem(what, "trial", text, repair="take it out of one of them", key=True)

    def _problems(self, source: Source) -> list[Problem]:
        assert self.trial is not None
        return self.trial(source)[1]

    def _objectives(self, stages: Sequence[StageConfig]) -> list[Objective]:
        nodes = self.node.get("objectives")
        found: list[Objective] = []
        for index, node in enumerate(nodes if isinstance(nodes, list) else []):
            metric, goal = (node.get("metric"), node.get("goal")) if isinstance(node, dict) else (None, None)
            if not isinstance(metric, str) or goal not in ("maximize", "minimize"):
                continue
            self._check_metric(metric, stages, "objectives", index, "metric")
            if any(each.metric == metric for each in found):
                self.problem(f"{metric!r} is an objective already", "objectives", index, repair="take one of them out")
            weight = node.get("weight", 1.0)
            found.append(Objective(metric, goal == "maximize", weight if isinstance(weight, (int, float)) else 1.0))
        return found

    def _constraints(self, stages: Sequence[StageConfig]) -> list[Constraint]:
        texts = self.node.get("constraints")
        found: dict[int, Constraint] = {}
        for index, text in enumerate(texts if isinstance(texts, list) else []):
            if not isinstance(text, str):
                continue
            try:
                found[index] = Constraint.parse(text)
            except ValueError as error:
                what, _, repair = str(error).rpartition("; ")
                self.problem(what, "constraints", index, repair=repair)
                continue
            self._check_metric(found[index].metric, stages, "constraints", index)
        positions = list(found)
        clash = contradiction(list(found.values()))
        if clash is not None:
            earlier, later = (found[positions[each]] for each in clash)
            what = f"no trial can meet both {earlier} and {later}"
            self.problem(what, "constraints", positions[clash[1]], repair="change one of the two bounds")
        return list(found.values())

    def _check_metric(self, name: str, stages: Sequence[StageConfig], *where: str | int) -> None:
        owner, _, leaf = name.rpartition("/")
        models = self.data.get("models")
        if name in MEASURES or (leaf in MEASURES and isinstance(models, dict) and owner in models):
            return
        if name.startswith("test/"):
            what = f"{name!r} would select on the test split"
            self.problem(what, *where, repair="choose a metric of val/; the test split is for the end")
            return
        known = metric_names(stages)
        # Without sound stages nobody knows their metrics.
        if not stages or name in known or is_model_term(name):
            return
        repair = suggestion(name, [*known, *MEASURES], noun="metrics")
        if name.startswith("val/") and not any(each.startswith("val/") for each in known):
            repair = "add an entry val to data:, or choose a metric of train/"
        self.problem(f"no trial yields the metric {name!r}", *where, repair=repair)

    def _searcher(self, space: Space | None, objectives: Sequence[Objective]) -> Part | None:
        part = self.checker.part(Kind.SEARCHER, self._written("searcher"), ("search", "searcher"))
        if part is None:
            return None
        context = CheckContext(space=space, objectives=tuple(objectives))
        self.checker.component_check(part, context, ("search", "searcher"))
        storage = self.node.get("storage")
        if isinstance(storage, str):
            self._check_storage(storage, part)
        if "seed" in part.params and part.params["seed"] is None and isinstance(self.data.get("seed"), int):
            part = replace(part, params={**part.params, "seed": self.data["seed"]})
        return part

    def _written(self, key: str) -> Any:
        return expand(self.node, key) if key in self.node else None

    def _check_storage(self, storage: str, part: Part) -> None:
        if not part.registered.component.shared_storage:
            able = [each.name for each in self.checker.registry.all(Kind.SEARCHER) if each.component.shared_storage]
            repair = f"take storage out, or choose {' or '.join(sorted(able))}" if able else "take storage out"
            self.problem(f"{part.registered} keeps nothing in a shared storage", "storage", repair=repair)
        url = _URL.match(storage)
        if url is not None and url["scheme"].partition("+")[0] not in _DATABASES:
            repair = f"{suggestion(url['scheme'], _DATABASES, noun='databases')}, or give a file"
            self.problem(f"{url['scheme']!r} is not a database that a storage can be in", "storage", repair=repair)

    def _ends(self, space: Space | None) -> None:
        limited = self.node.get("max_trials") is not None or self.node.get("timeout_s") is not None
        if space is None or limited or space.size() is not None:
            return
        endless = ", ".join(space.continuous())
        what = f"the search never ends: {endless} can be any number of a range, and nothing limits the trials"
        self.problem(what, repair="give max_trials or timeout_s, or give the range a step")

    def _stop_early(self, objectives: Sequence[Objective], stages: Sequence[StageConfig]) -> HalvingConfig | None:
        node = self.node.get("stop_early")
        if not isinstance(node, dict):
            return None
        if len(objectives) > 1:
            names = ", ".join(each.metric for each in objectives)
            what = f"stop_early needs one objective to compare trials by, and there are {len(objectives)}: {names}"
            self.problem(what, "stop_early", repair="keep one objective, or take stop_early out", key=True)
        elif objectives and objectives[0].metric.rpartition("/")[2] in MEASURES:
            what = f"stop_early compares trials in training, and {objectives[0].metric!r} does not change by it"
            self.problem(what, "stop_early", repair="choose a metric of the training, or take stop_early out", key=True)
        after = node.get("after_epochs", 1)
        epochs = sum(stage.epochs or 0 for stage in stages)
        if isinstance(after, int) and 0 < epochs <= after:
            what = f"a trial has {epochs} epoch{'s' * (epochs != 1)} in all, so there is nothing to stop after {after}"
            where = "after_epochs" if "after_epochs" in self._mapping("stop_early") else ""
            self.problem(what, *filter(None, ("stop_early", where)), repair="give fewer after_epochs, or more epochs")
        return HalvingConfig(**node) if node.keys() <= {"after_epochs", "factor"} else None
