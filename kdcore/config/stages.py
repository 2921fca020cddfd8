"""Checks of the stages: what they train, by which terms, with which data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from kdcore.address import Address, What
from kdcore.component import CheckContext, Input, Kind
from kdcore.config.checker import Checker, expand
from kdcore.config.config import (
    BestConfig,
    Binding,
    EarlyStopConfig,
    MetricsConfig,
    NonfiniteConfig,
    Part,
    Path,
    StageConfig,
    StartConfig,
    TermConfig,
)
from kdcore.config.pruning import check_pruning
from kdcore.config.training import check_optimizer, check_scheduler
from kdcore.config.wrapping import wrapper_with
from kdcore.errors import suggestion

INITIAL = "initial"


class StageChecker:
    """Checks one stage after the other; a later stage may refer to an earlier one.

    `data` and `models` are names, `feeds` says whose outputs each model and adapter is fed by.
    """

    def __init__(
        self,
        checker: Checker,
        data: Collection[str],
        models: frozenset[str],
        feeds: Mapping[str, set[str]],
        *,
        external: bool,
    ) -> None:
        self.checker = checker
        self.data = data
        self.models = models
        self.feeds = feeds
        self.external = external
        self.earlier: dict[str, tuple[str, ...]] = {}

    def check(self, node: Any, index: int) -> StageConfig | None:
        """Check one stage; returns None where too little of it is there to go on."""
        path: Path = ("stages", index)
        if not isinstance(node, dict):
            return None
        name = node.get("name")
        if isinstance(name, str) and (name == INITIAL or name in self.earlier):
            why = (
                "another stage has this name" if name in self.earlier else "'initial' names the weights before training"
            )
            self.checker.problem(f"stage name {name!r}: {why}", (*path, "name"), "rename the stage")
        before = len(self.checker.problems)
        train = self._train(node.get("train"), path)
        terms = self._terms(node, path)
        sound = bool(train) and len(self.checker.problems) == before
        balancer = self.checker.part(Kind.BALANCER, expand(node, "balancer"), (*path, "balancer"))
        if balancer is not None:
            weights = {term.name: term.weight for term in terms}
            self.checker.component_check(balancer, CheckContext(weights, model_terms=True), (*path, "balancer"))
        metrics = self._metrics(node.get("metrics"), train, terms, path)
        data = self._data(node.get("data"), path)
        if sound:
            self._check_idle(node.get("name"), train, terms, metrics, path)
        self._check_selected(node, self._leaves(node, terms, metrics, sound=sound), data, path)
        stage = balancer and StageConfig(
            name=str(name),
            title=node.get("title") or str(name),
            index=index,
            train=train,
            terms=terms,
            balancer=balancer,
            metrics=metrics,
            place=self.checker.source.place(path),
            epochs=node.get("epochs"),
            steps_per_epoch=node.get("steps_per_epoch"),
            freeze=tuple(map(str, _list(node, "freeze"))),
            start=self._start(node.get("start"), path),
            data=data,
            optimizer=self._training(node, "optimizer", check_optimizer, path),
            scheduler=self._training(node, "scheduler", check_scheduler, path),
            clip_grad_norm=node.get("clip_grad_norm"),
            accumulate=node.get("accumulate", 1),
            precision=node.get("precision", "float32"),
            compile=node.get("compile", False),
            find_unused=node.get("find_unused", False),
            on_nonfinite=_on_nonfinite(node.get("on_nonfinite")),
            best=_best(node.get("best")),
            early_stop=_early_stop(node.get("early_stop")),
            pruning=check_pruning(self.checker, node, [each for each in train if each in self.models], path),
        )
        self._need(node, path)
        self.earlier[str(name)] = train
        return stage or None

    def _need(self, node: dict[str, Any], path: Path) -> None:
        if self.external:
            return
        for key, example in (("epochs", "epochs: 10"), ("optimizer", "optimizer: {type: AdamW, params: {lr: 0.001}}")):
            if key not in node:
                self.checker.problem(f"stage {node.get('name')!r} has no {key}", path, f"write {example}")

    def _train(self, node: Any, path: Path) -> tuple[str, ...]:
        names = [name for name in node if isinstance(name, str)] if isinstance(node, list) else []
        for index, name in enumerate(names):
            if name not in self.checker.names:
                repair = suggestion(name, self.checker.names, noun="models and adapters")
                self.checker.problem(f"there is no model or adapter {name!r} to train", (*path, "train", index), repair)
        return tuple(names)

    def _check_idle(
        self, stage: Any, train: tuple[str, ...], terms: tuple[TermConfig, ...], metrics: MetricsConfig, path: Path
    ) -> None:
        """Report what is trained though no loss looks at it."""
        reached = {address.name for term in terms for address in term.addresses} | {*metrics.models}
        while more := {fed for name in reached for fed in self.feeds.get(name, ())} - reached:
            reached |= more
        for index, name in enumerate(train):
            if name not in reached:
                self.checker.problem(
                    f"stage {stage!r} trains {name!r}, but no loss looks at it",
                    (*path, "train", index),
                    "bind a loss's input to it, or take it out of train:",
                )

    def _terms(self, node: dict[str, Any], path: Path) -> tuple[TermConfig, ...]:
        losses = node.get("losses")
        if not isinstance(losses, dict):
            return ()
        shared = self._wrappers(node, path)
        found = []
        for name in list(losses):
            term = self._term(name, expand(losses, name), shared, (*path, "losses", name))
            if term is not None:
                found.append(term)
        if losses and not any(isinstance(each, dict) and each.get("enabled", True) for each in losses.values()):
            self.checker.problem("every term of the stage is disabled", (*path, "losses"), "enable one")
        return tuple(found)

    def _term(self, name: str, node: Any, shared: tuple[Part, ...], path: Path) -> TermConfig | None:
        loss = self.checker.part(Kind.LOSS, node, path)
        if loss is None:
            return None
        wrappers = (*shared, *self._wrappers(node, path))
        components = [part.registered.component for part in (*wrappers, loss)]
        inputs: dict[str, Input] = {each.name: each for component in components for each in component.inputs}
        lists = any(component.takes_lists for component in components)
        bound = self.checker.bindings(
            inputs.values(),
            node.get("inputs"),
            path,
            str(loss.registered),
            lists=lists,
            offer=lambda name: wrapper_with(name, self.checker, path),
        )
        node["inputs"] = {key: _written(binding) for key, binding in bound.items()}
        weight = node.get("weight", 1.0)
        context = CheckContext({name: weight}, inputs=node["inputs"])
        self.checker.component_check(loss, context, path)
        own = len(wrappers) - len(shared)
        for position, wrapper in enumerate(wrappers):
            inner = position - len(shared)
            listed = isinstance(node.get("wrapper"), list)
            where: Path = (*path[:2], "wrapper") if inner < 0 else (*path, "wrapper", *((inner,) if listed else ()))
            self.checker.component_check(wrapper, context, where if own or inner < 0 else path)
        if not node.get("enabled", True):
            return None
        return TermConfig(name, weight, loss, wrappers, bound, self.checker.source.place(path))

    def _wrappers(self, node: dict[str, Any], path: Path) -> tuple[Part, ...]:
        if "wrapper" not in node:
            return ()
        if isinstance(node["wrapper"], list):
            chain = node["wrapper"]
            found = [
                self.checker.part(Kind.WRAPPER, expand(chain, index), (*path, "wrapper", index))
                for index in range(len(chain))
            ]
        else:
            found = [self.checker.part(Kind.WRAPPER, expand(node, "wrapper"), (*path, "wrapper"))]
        return tuple(part for part in found if part is not None)

    def _metrics(self, node: Any, train: tuple[str, ...], terms: tuple[TermConfig, ...], path: Path) -> MetricsConfig:
        explicit = isinstance(node, dict) and bool(node)
        node = node if isinstance(node, dict) else {}
        models = node.get("models")
        if isinstance(models, list):
            for index, name in enumerate(models):
                if isinstance(name, str) and name not in self.models:
                    where = (*path, "metrics", "models", index)
                    self.checker.problem(f"there is no model {name!r}", where, suggestion(str(name), self.models))
        else:
            read = {address.name for term in terms for address in term.addresses if _is_output(address)}
            models = [name for name in train if name in read and name in self.models]
        named = [{"type": kind} if isinstance(kind, str) else kind for kind in _list(node, "kinds", ["accuracy"])]
        kinds = [kind for kind in named if isinstance(kind, dict)]
        target = self.checker.address(node.get("target", "batch:target"), (*path, "metrics", "target"))
        return MetricsConfig(
            models=tuple(map(str, models)),
            kinds=tuple({"k": 5, **kind} if kind.get("type") == "top_k" else kind for kind in kinds),
            target=target or Address("batch", "target"),
            class_dim=node.get("class_dim", -1),
            ignore_index=node.get("ignore_index", -100),
            splits=tuple(map(str, splits)) if isinstance(splits := node.get("splits"), list) else ("val",),
            shift=node.get("shift", max((_shift(term) for term in terms), default=0)),
            explicit=explicit,
        )

    def _start(self, node: Any, path: Path) -> dict[str, StartConfig]:
        found = {}
        for name, value in (node if isinstance(node, dict) else {}).items():
            where = (*path, "start", name)
            spec = {"stage": value} if isinstance(value, str) else value if isinstance(value, dict) else {}
            stage, source = str(spec.get("stage")), str(spec.get("model", name))
            for model in {name, source} - self.models:
                repair = suggestion(model, self.models, noun="models")
                self.checker.problem(f"there is no model {model!r} to start", where, repair, key=model == name)
            if stage != INITIAL and stage not in self.earlier:
                repair = suggestion(stage, [INITIAL, *self.earlier], noun="starts")
                self.checker.problem(f"there is no earlier stage {stage!r}", where, repair)
            elif stage != INITIAL and source in self.models and source not in self.earlier[stage]:
                repair = f"stage {stage!r} trains {', '.join(self.earlier[stage])}"
                self.checker.problem(f"stage {stage!r} does not train {source!r}", where, repair)
            found[name] = StartConfig(stage, source, tuple(map(str, _list(spec, "only", []))))
        return found

    def _data(self, node: Any, path: Path) -> dict[str, str]:
        node = node if isinstance(node, dict) else {}
        chosen = {}
        for role in ("train", "val", "test"):
            name = node.get(role, role if role in self.data or role == "train" else None)
            if not isinstance(name, str):
                continue
            if name in self.data:
                chosen[role] = name
            elif not self.external:
                where = (*path, "data", role) if role in node else path
                repair = suggestion(name, self.data, noun="entries of data")
                self.checker.problem(f"there is no entry {name!r} under data:", where, repair)
        return chosen

    def _training(self, node: dict[str, Any], key: str, check: Any, path: Path) -> dict[str, Any] | None:
        if key not in node:
            return None
        checked, problems = check(node[key], source=self.checker.source, base=(*path, key))
        self.checker.problems.extend(problems)
        node[key] = checked
        return dict(checked)

    def _leaves(
        self, node: dict[str, Any], terms: tuple[TermConfig, ...], metrics: MetricsConfig, *, sound: bool
    ) -> list[str]:
        """Return the stage's metrics without their split; those that may be meant, where part of the stage is wrong."""
        losses = [term.name for term in terms] if sound else node.get("losses")
        models = metrics.models if sound else self.models
        judged = [f"{model}/{metric_name(kind)}" for model in models for kind in metrics.kinds]
        return ["loss", *(f"losses/{name}" for name in (losses if isinstance(losses, (list, dict)) else ())), *judged]

    def _check_selected(self, node: dict[str, Any], leaves: list[str], data: Mapping[str, str], path: Path) -> None:
        """Check the metrics that decide something: they must be of this stage, and not of the test split."""
        has_val = self.external or "val" in data
        known = [f"{split}/{leaf}" for split in (("val", "train") if has_val else ("train",)) for leaf in leaves]
        for keys in (("best", "metric"), ("early_stop", "metric"), ("scheduler", "params", "monitor")):
            name: Any = node
            for key in keys:
                name = name.get(key) if isinstance(name, dict) else None
            if not isinstance(name, str) or name in known or _model_term(name):
                continue
            what, repair = f"this stage has no metric {name!r}", suggestion(name, known, noun="metrics")
            if name.startswith("test/"):
                what, repair = f"{name!r} would select on the test split", "choose a metric of val/"
            elif name.startswith("val/") and not has_val:
                what = f"{name!r} needs validation data"
                repair = "add an entry val to data:, or choose a metric of train/"
            self.checker.problem(what, (*path, *keys), repair)


def metric_name(kind: Mapping[str, Any]) -> str:
    """Return how a metric is called in `<split>/<model>/<name>`."""
    return f"top_{kind.get('k', 5)}" if kind.get("type") == "top_k" else str(kind.get("type"))


def _shift(term: TermConfig) -> int:
    return sum(wrapper.registered.component.shift for wrapper in term.wrappers)


def _is_output(address: Address) -> bool:
    return not address.path and address.what is not What.MODULE


def _model_term(name: str) -> bool:
    return "/losses/" in name and "." in name.rpartition("/")[2]


def _list(node: Mapping[str, Any], key: str, default: list[Any] | None = None) -> list[Any]:
    value = node.get(key, default)
    return value if isinstance(value, list) else []


def _on_nonfinite(node: Any) -> NonfiniteConfig:
    if not isinstance(node, dict):
        return NonfiniteConfig(str(node or "stop"))
    return NonfiniteConfig(str(node.get("action")), node.get("limit", 10), node.get("factor", 0.5))


def _best(node: Any) -> BestConfig | None:
    if not isinstance(node, dict):
        return None
    metric = str(node.get("metric"))
    return BestConfig(metric, node.get("mode") or _mode(metric))


def _early_stop(node: Any) -> EarlyStopConfig | None:
    if not isinstance(node, dict):
        return None
    metric = str(node.get("metric"))
    return EarlyStopConfig(
        metric, node.get("mode") or _mode(metric), node.get("patience", 1), node.get("min_delta", 0.0)
    )


def _mode(metric: str) -> str:
    return "min" if "loss" in metric or "losses" in metric.split("/") else "max"


def _written(binding: Binding) -> str | list[str]:
    return [str(each) for each in binding] if isinstance(binding, list) else str(binding)
