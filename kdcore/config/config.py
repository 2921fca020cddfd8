"""A checked config as typed data: what the pipeline and the engine are built from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kdcore.address import Address
from kdcore.config.source import Source
from kdcore.errors import Place
from kdcore.plugins import Registered
from kdcore.pruning.config import PruningGroup

if TYPE_CHECKING:
    from kdcore.config.search_config import SearchConfig

Path = tuple[str | int, ...]
Binding = Address | list[Address]


@dataclass(frozen=True)
class Constant:
    """A value that a model is called with as it stands in the config."""

    value: Any


Argument = Address | Constant


def addresses_in(bound: Iterable[Argument | Binding]) -> list[Address]:
    """Return every address in a list of bindings, constants left out."""
    flat = [each for item in bound for each in (item if isinstance(item, list) else [item])]
    return [each for each in flat if isinstance(each, Address)]


@dataclass(frozen=True)
class Part:
    """A component chosen by the config, its params checked and completed."""

    registered: Registered
    params: Mapping[str, Any]
    place: Place

    def build(self, **given: Any) -> Any:
        """Call the factory; `given` is what the core passes besides the params."""
        return self.registered.factory()(**given, **self.params)


@dataclass(frozen=True)
class WeightsConfig:
    """Where weights come from; without a file they are as the factory made them."""

    file: str | None
    key: str | None = None
    strip_prefix: str | None = None
    strict: bool = True
    place: Place = Place()


@dataclass(frozen=True)
class DataConfig:
    """One data set and how it is loaded."""

    name: str
    part: Part
    batch_size: int
    sampler: str
    drop_last: bool
    num_workers: int
    pin_memory: bool
    prefetch_factor: int | None
    persistent_workers: bool
    place: Place


@dataclass(frozen=True)
class CacheConfig:
    """How a frozen model's results are stored: without a folder under output_dir; `top_k` of 0 keeps all classes."""

    folder: str | None = None
    dtype: str = "as_is"
    top_k: int = 0
    place: Place = Place()


@dataclass(frozen=True)
class ModelConfig:
    """One model, how it is called and how its output is read; `part` is None if the caller brings it."""

    name: str
    part: Part | None
    args: tuple[Argument, ...]
    kwargs: Mapping[str, Argument]
    output: Part
    weights: WeightsConfig | None
    seed: int | None
    clone_captures: bool
    place: Place
    cache: CacheConfig | None = None

    @property
    def addresses(self) -> list[Address]:
        """What the model is called with."""
        return addresses_in([*self.args, *self.kwargs.values()])


@dataclass(frozen=True)
class AdapterConfig:
    """One adapter, what feeds it and whose shape it produces."""

    name: str
    part: Part
    inputs: Mapping[str, Binding]
    like: Address | None
    weights: WeightsConfig | None
    seed: int | None
    place: Place

    @property
    def addresses(self) -> list[Address]:
        """What feeds the adapter; `like` gives it only a shape."""
        return addresses_in(self.inputs.values())


@dataclass(frozen=True)
class TermConfig:
    """One term: a loss in its wrappers (outermost first), bound to addresses."""

    name: str
    weight: float
    loss: Part
    wrappers: tuple[Part, ...]
    inputs: Mapping[str, Binding]
    place: Place

    @property
    def addresses(self) -> list[Address]:
        """What the term's inputs are bound to."""
        return addresses_in(self.inputs.values())


@dataclass(frozen=True)
class MetricsConfig:
    """Whose outputs are judged, by which metrics, against which labels."""

    models: tuple[str, ...]
    kinds: tuple[Mapping[str, Any], ...]
    target: Address
    class_dim: int
    ignore_index: int
    shift: int = 0
    splits: tuple[str, ...] = ("val",)
    explicit: bool = False


@dataclass(frozen=True)
class BestConfig:
    """Which epoch's weights are kept."""

    metric: str
    mode: str


@dataclass(frozen=True)
class EarlyStopConfig:
    """When a stage ends before its last epoch."""

    metric: str
    mode: str
    patience: int
    min_delta: float


@dataclass(frozen=True)
class NonfiniteConfig:
    """What happens when a loss or gradient is not finite: `stop`, `skip` or `lower_rate`."""

    action: str = "stop"
    limit: int = 10
    factor: float = 0.5


@dataclass(frozen=True)
class CheckpointsConfig:
    """When a run is saved so that it can be resumed, and how many of those are kept."""

    every_epochs: int = 1
    every_steps: int | None = None
    every_minutes: float | None = None
    keep: int = 2


@dataclass(frozen=True)
class DistributedConfig:
    """How several processes share the work: `ddp`, `fsdp` or `deepspeed`.

    `shard` are patterns of modules that FSDP shards apart, `deepspeed` the part of DeepSpeed's config that it is given.
    """

    strategy: str = "ddp"
    shard: tuple[str, ...] = ()
    deepspeed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StartConfig:
    """The weights that a model begins a stage with; `only` names the parts that it takes, by default all."""

    stage: str
    model: str
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class PruningConfig:
    """One group of a stage's `pruning:`, and the criterion that it names."""

    group: PruningGroup
    criterion: Part

    @property
    def model(self) -> str:
        """The model whose layers are pruned."""
        assert self.group.model is not None  # filled in where the config leaves it out
        return self.group.model


@dataclass(frozen=True)
class StageConfig:
    """One stage."""

    name: str
    title: str
    index: int
    train: tuple[str, ...]
    terms: tuple[TermConfig, ...]
    balancer: Part
    metrics: MetricsConfig
    place: Place
    epochs: int | None = None
    steps_per_epoch: int | None = None
    freeze: tuple[str, ...] = ()
    start: Mapping[str, StartConfig] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    optimizer: Mapping[str, Any] | None = None
    scheduler: Mapping[str, Any] | None = None
    clip_grad_norm: float | None = None
    accumulate: int = 1
    precision: str = "float32"
    compile: bool = False
    find_unused: bool = False
    on_nonfinite: NonfiniteConfig = NonfiniteConfig()
    best: BestConfig | None = None
    early_stop: EarlyStopConfig | None = None
    pruning: tuple[PruningConfig, ...] = ()


@dataclass(frozen=True)
class Config:
    """A whole checked config; `resolved` is the plain data with every default written out."""

    name: str
    seed: int
    device: str
    output_dir: str
    checkpoints: CheckpointsConfig
    distributed: DistributedConfig
    data: Mapping[str, DataConfig]
    models: Mapping[str, ModelConfig]
    adapters: Mapping[str, AdapterConfig]
    stages: tuple[StageConfig, ...]
    source: Source
    resolved: Mapping[str, Any]
    search: SearchConfig | None = None

    def place(self, *path: str | int) -> Place:
        """Return where the value at `path` stands."""
        return self.source.place(path)

    def parts(self) -> Iterator[Part]:
        """Yield every component that is chosen for a run; what a search chooses is not among them."""
        for data in self.data.values():
            yield data.part
        for model in self.models.values():
            yield from (part for part in (model.part, model.output) if part is not None)
        for adapter in self.adapters.values():
            yield adapter.part
        for stage in self.stages:
            yield stage.balancer
            for term in stage.terms:
                yield from (term.loss, *term.wrappers)
            yield from (group.criterion for group in stage.pruning)
