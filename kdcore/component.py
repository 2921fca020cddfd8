"""The torch-free description of one method: what a plugin's hook returns."""

from __future__ import annotations

import enum
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from kdcore.search.objectives import Objective
    from kdcore.search.space import Space


class Kind(enum.StrEnum):
    """The nine kinds of component; the value is the word users read and write."""

    LOSS = "loss"
    WRAPPER = "wrapper"
    BALANCER = "balancer"
    CRITERION = "criterion"
    OUTPUT_EXTRACTOR = "output_extractor"
    SEARCHER = "searcher"
    ADAPTER = "adapter"
    MODEL = "model"
    DATASET = "dataset"

    @property
    def hook(self) -> str:
        """The name of the hook that offers components of this kind."""
        return "criteria" if self is Kind.CRITERION else f"{self.value}s" if self is not Kind.LOSS else "losses"

    @property
    def title(self) -> str:  # type: ignore[override]
        """The kind as users read it in tables and messages."""
        return "pruning criterion" if self is Kind.CRITERION else self.value.replace("_", " ")


class Role(enum.StrEnum):
    """What an input is to a wrapper: only positions and labels are masked or shifted."""

    PLAIN = "plain"
    POSITIONS = "positions"
    LABELS = "labels"
    MODULE = "module"


@dataclass(frozen=True)
class Paper:
    """The publication behind a method."""

    title: str
    year: int
    url: str


@dataclass(frozen=True)
class Input:
    """One tensor (or module) that a loss, wrapper or adapter is called with, by keyword.

    `default` is the address used when a config binds none; only required inputs may have one.
    `list` says that the component itself wants a list of tensors (wrappers such as `pairs`
    make lists acceptable for any input, see `Component.takes_lists`).
    """

    name: str
    required: bool = True
    role: Role = Role.PLAIN
    default: str | None = None
    list: bool = False
    help: str = ""

    def __post_init__(self) -> None:
        if self.default is not None and not self.required:
            raise ValueError(f"input {self.name!r} is optional and must not have a default address")


class Complaint(NamedTuple):
    """What a component's own check found wrong with its params; `param` is the key it is about."""

    message: str
    param: str | None = None


@dataclass(frozen=True)
class CheckContext:
    """What a component's own check may look at besides its params.

    `terms` are the stage's loss terms and their weights as written; `model_terms` says whether
    a model of the stage may return further losses itself, named `<model>.<key>`.
    `inputs` are the addresses bound to the component (one, or a list of them); for a model, of its
    call. `data` and `models` are the config's entries by name, as far as they are mappings: for what
    must agree between data and models, such as a tokenizer. For a searcher, `space` and `objectives`
    are those of the search.
    """

    terms: Mapping[str, float] = field(default_factory=dict)
    model_terms: bool = False
    inputs: Mapping[str, str | list[str]] = field(default_factory=dict)
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    space: Space | None = None
    objectives: tuple[Objective, ...] = ()


Check = Callable[[Mapping[str, Any], CheckContext], Iterable[Complaint]]


@dataclass(frozen=True, kw_only=True)
class Component:
    """One method of a plugin, as data.

    Arguments:
        name: what a config writes after `type:`.
        factory: `"package.module:Name"`, imported on first use; or the callable itself, for
            components registered from a notebook or a plugin file.
        schema: the JSON Schema (2020-12) of `params`: a file in the factory's package, optionally
            with a JSON pointer (`"schema.json#/$defs/mse"`), or the schema itself.
        summary: one line for listings.
        paper: where the method was published.
        inputs: what a loss, wrapper or adapter is called with.
        takes_lists: for wrappers: any input of the wrapped loss may be bound to a list.
        shift: for wrappers: by how many positions labels are compared later than outputs; metrics follow it.
        shared_storage: for searchers: several processes may share one through a `storage`.
        check: what a JSON Schema cannot say; torch-free.
        stages: a word on how many stages the method needs, for the methods page.
        examples: `"package.module:NAME"`, a list of `kdcore.testing.Example` (or a dict of such lists by component)
            on which `kd plugins check` and the plugin's tests run their checks; imported by them alone.
    """

    name: str
    factory: str | Callable[..., Any]
    schema: str | Mapping[str, Any]
    summary: str
    paper: Paper | None = None
    inputs: tuple[Input, ...] = ()
    takes_lists: bool = False
    shift: int = 0
    shared_storage: bool = False
    check: Check | None = None
    stages: str = "one"
    examples: str | None = None

    def __post_init__(self) -> None:
        if not self.name.replace("_", "a").replace("-", "a").isalnum() or not self.name[0].isalpha():
            raise ValueError(f"component name {self.name!r} must be letters, digits, '_' and '-', a letter first")
        if isinstance(self.factory, str) and self.factory.count(":") != 1:
            raise ValueError(f"factory {self.factory!r} of component {self.name!r} must be 'package.module:Name'")
        names = [each.name for each in self.inputs]
        if len(set(names)) != len(names):
            raise ValueError(f"component {self.name!r} names an input twice: {names}")

    @property
    def module(self) -> str:
        """The module of the factory; the schema file lies in its outermost package."""
        return self.factory.split(":")[0] if isinstance(self.factory, str) else self.factory.__module__

    def resolve(self) -> Callable[..., Any]:
        """Import and return the factory."""
        if not isinstance(self.factory, str):
            return self.factory
        module, name = self.factory.split(":")
        target: Any = importlib.import_module(module)
        for part in name.split("."):
            target = getattr(target, part)
        return target  # type: ignore[no-any-return]

    def input(self, name: str) -> Input | None:
        """Return the input so named, if there is one."""
        return next((each for each in self.inputs if each.name == name), None)
