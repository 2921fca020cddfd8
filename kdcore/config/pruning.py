"""Checks of a stage's `pruning:`: which layers of what are pruned, how far, by what and when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdcore.component import CheckContext, Kind
from kdcore.config.checker import Checker, expand
from kdcore.config.config import Part, Path, PruningConfig
from kdcore.config.schemas import load_schema
from kdcore.config.validation import validate, with_defaults
from kdcore.errors import Place, suggestion
from kdcore.pruning.config import Mistake, PruningGroup, group_mistakes

_TARGET, _SCHEDULE = "target_sparsity", "schedule"

Keys = tuple[str, ...]


def check_pruning(
    checker: Checker, stage: Mapping[str, Any], trained: Sequence[str], path: Path
) -> tuple[PruningConfig, ...]:
    """Check the groups of a stage, write their defaults into it and return those that are sound.

    Arguments:
        checker: collects the problems.
        stage: the stage with the core's other defaults.
        trained: the models that it trains.
        path: of the stage.
    """
    node = stage.get("pruning")
    nodes = node if isinstance(node, list) else [node]
    found = []
    for index, each in enumerate(nodes):
        if isinstance(each, dict):
            where: Path = (*path, "pruning", *((index,) if nodes is node else ()))
            found.append(_Group(checker, each, where).read(trained))
    return tuple(group for group in found if group is not None)


class _Group:
    """One group as written, at `path`; `node` is completed in place."""

    def __init__(self, checker: Checker, node: dict[str, Any], path: Path) -> None:
        self.checker = checker
        self.path = path
        self.written = _at(checker.source.data, path)
        node.update(_complete(node))
        self.node = node

    def read(self, trained: Sequence[str]) -> PruningConfig | None:
        """Check the group; returns None where it is wrong."""
        before = len(self.checker.problems)
        self._check_model(trained)
        criterion = self._criterion()
        wrong = self._wrong()
        for mistake in _mistakes(self.written, wrong):
            self.checker.problem(mistake.message, (*self.path, *mistake.path), mistake.repair)
        if wrong or criterion is None or len(self.checker.problems) > before:
            return None
        place, places = self.checker.source.place(self.path), dict(self._places())
        return PruningConfig(PruningGroup.from_mapping(self.node, place, places), criterion)

    def _check_model(self, trained: Sequence[str]) -> None:
        name = self.node.get("model")
        if name is None and len(trained) == 1:
            self.node["model"] = trained[0]
        elif name is None and trained:
            repair = f"write model: {' or '.join(trained)}"
            self.checker.problem("pruning: does not say which of the trained models it is for", self.path, repair)
        elif name is None:
            self.checker.problem("the stage trains no model that could be pruned", self.path, "remove pruning:")
        elif isinstance(name, str) and name not in trained:
            known = f"it trains {', '.join(trained)}" if trained else "it trains no model"
            if name not in self.checker.names:
                known = suggestion(name, trained, noun="models that the stage trains")
            what = f"the stage does not train the model {name!r}, so it cannot prune it"
            self.checker.problem(what, (*self.path, "model"), known)

    def _criterion(self) -> Part | None:
        where: Path = (*self.path, "criterion")
        part = self.checker.part(Kind.CRITERION, self.node["criterion"], where)
        if part is not None:
            self.checker.component_check(part, CheckContext(), where)
        return part

    def _wrong(self) -> set[Keys]:
        """Return the keys whose values violate the schema, which is reported with all else that does."""
        definitions = load_schema("config")["$defs"]
        problems = validate(self.written, {**definitions["pruning_group"], "$defs": definitions})
        return {_keys(problem.place.path.split(".")) for problem in problems}

    def _places(self) -> Iterator[tuple[str, Place]]:
        """Yield where each key of the group stands, those of mappings and items of lists within it too."""
        for key, value in self.written.items():
            inner = value if isinstance(value, Mapping) else range(len(value)) if isinstance(value, list) else ()
            for keys in ((key,), *((key, each) for each in inner)):
                yield ".".join(map(str, keys)), self.checker.source.place((*self.path, *keys))


def _complete(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group with short forms written out and the core's defaults filled in."""
    definitions = load_schema("config")["$defs"]
    whole = with_defaults(group, {**definitions["pruning_group"], "$defs": definitions})
    expand(whole, "criterion")
    if isinstance(expand(whole, "schedule"), dict):
        course = next(each for each in definitions["pruning_schedule"]["anyOf"] if "properties" in each)
        whole["schedule"] = with_defaults(whole["schedule"], {**course, "$defs": definitions})
    return whole


def _mistakes(written: Mapping[str, Any], wrong: set[Keys]) -> list[Mistake]:
    """Return what is wrong with the keys that the schema accepts, one by one and together.

    What is found at a key is left out of the next look, so that one mistake does not hide others.
    """
    found: list[Mistake] = []
    while new := [each for each in group_mistakes(_without(written, wrong)) if _keys(each.path) not in wrong]:
        found += new
        wrong = wrong | {_keys(each.path) for each in new}
    return found


def _without(written: Mapping[str, Any], wrong: set[Keys]) -> dict[str, Any]:
    """Return a group without the keys that are wrong; a target is made up, since there must be one."""
    left = {key: value for key, value in written.items() if (key,) not in wrong}
    if isinstance(left.get(_SCHEDULE), Mapping):
        left[_SCHEDULE] = {key: value for key, value in left[_SCHEDULE].items() if (_SCHEDULE, key) not in wrong}
    return {_TARGET: left.get("min_sparsity", 0.0), **left} if (_TARGET,) in wrong else left


def _keys(path: Sequence[str]) -> Keys:
    """Return the key of a group that `path` is about; a schedule has keys of its own."""
    return tuple(path[: 2 if path[0] == _SCHEDULE else 1])


def _at(data: Any, path: Sequence[str | int]) -> Mapping[str, Any]:
    for step in path:
        data = data[step]
    return data if isinstance(data, Mapping) else {}
