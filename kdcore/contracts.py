"""What passes between the core and the objects that plugins build."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from kdcore.component import Input
from kdcore.errors import WiringError

_FLAGS = {
    "training_only": "a loss is left out of evaluation",
    "accepts_low_precision": "a loss takes its inputs as autocast left them, and not in float32",
    "needs_gradients": "a criterion learns from gradients",
    "accumulates": "a criterion learns from every step, and not only from one that makes masks",
    "per_block": "a criterion scores whole blocks",
}

if TYPE_CHECKING:
    from kdcore.pruning.blocks import Blocks
    from kdcore.search.objectives import Constraint, Objective
    from kdcore.search.space import Space


class Extracted(NamedTuple):
    """What an output extractor reads off a model's raw output.

    `value` is what the bare address `student` means, `named` what `student#key` finds, and
    `losses` the scalars that the model itself returned; they become terms `<model>.<key>`.
    """

    value: Tensor | None
    named: Mapping[str, Any] = {}
    losses: Mapping[str, Tensor] = {}


@dataclass(frozen=True)
class TensorFacts:
    """Shape and dtype of one tensor of the probe batch."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @staticmethod
    def of(value: Any) -> Any:
        """Describe every tensor in `value`, keeping lists, tuples, dicts and anything else as they are."""
        if isinstance(value, Tensor):
            return TensorFacts(tuple(value.shape), value.dtype)
        if isinstance(value, Mapping):
            return {key: TensorFacts.of(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [TensorFacts.of(item) for item in value]
        return value


@dataclass(frozen=True)
class Facts:
    """What `setup(facts)` of a loss, wrapper, adapter or balancer may rely on.

    Arguments:
        inputs: per bound input a TensorFacts, a list or dict of them, or the module itself.
        addresses: per bound input of a loss the address as text, for example `batch:target`.
        like: what an adapter must produce, from its `like:` address.
        num_samples: the training set's length.
        num_classes: the training set's classes, if it says so.
        targets: the training set's labels by sample index, if it offers them.
        num_processes: how many processes train together.
    """

    inputs: Mapping[str, Any] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)
    like: TensorFacts | None = None
    num_samples: int | None = None
    num_classes: int | None = None
    targets: Sequence[int] | Tensor | None = None
    num_processes: int = 1


class LossFactory(Protocol):
    """What a wrapper is built with: it makes a fresh loss per call and says what that loss takes."""

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The inputs of the losses it makes, with their roles."""

    def __call__(self) -> nn.Module:
        """Make a loss that shares no state with any other."""


class Searcher(Protocol):
    """What a search asks for points and tells their results.

    Several suggestions may be open at once, and their results come in any order. The search itself sees
    to it that no point is trained twice: where a searcher repeats itself, the known result is fed back.
    The same seed and the same calls give the same suggestions; a searcher has a random generator of its
    own, and reads and moves no global one.
    """

    def setup(
        self,
        space: Space,
        objectives: Sequence[Objective],
        *,
        constraints: Sequence[Constraint] = (),
        storage: str | None = None,
    ) -> None:
        """Prepare for a search; called once, before anything else.

        Arguments:
            space: where points come from.
            objectives: what is looked for; the metrics fed back hold a value for each.
            constraints: bounds on metrics; a point that breaks one is complete, but no solution.
            storage: a file or URL that several processes share, only for a component with `shared_storage`.
        """

    def suggest(self) -> dict[str, Any] | None:
        """Return the next point, with the parameters that are active in it; None where there are no more."""

    def feedback(self, point: Mapping[str, Any], metrics: Mapping[str, float] | None) -> None:
        """Learn what came of `point`, suggested before or not; None if its trial failed."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next suggestions depend on, as data that JSON can hold."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, after `setup`, from where another searcher of the same search was.

        Points suggested before, whose result was not fed back, are still open.
        """


class Criterion(Protocol):
    """What a pruning criterion does: it says how much each weight, or each block of weights, matters.

    `weight` and `gradient` are detached and not to be changed; `name` is that of the parameter in its model, the same
    in every run; `blocks` is the pattern over the weight. Four attributes say what the criterion needs:

        needs_gradients = True   False: `update` is never called
        accumulates = True       False: `update` is called only in a step that makes masks, not in every one up to it
        per_block = False        True: `score` has one value per block, and of an attention head `update` sees the
                                 columns of the output projection alone
        dtype                    set before the first call: of what is kept, None for the weight's own

    A criterion that scores blocks may also define `rearrange(name, kept, blocks)`: given which blocks of a layer would
    stay, it returns which do, as many, for what a score per block cannot say.
    """

    needs_gradients: bool

    def update(self, name: str, weight: Tensor, gradient: Tensor, blocks: Blocks) -> None:
        """Learn from a step: after backward, before clipping."""

    def score(self, name: str, weight: Tensor, blocks: Blocks) -> Tensor:
        """Return a score for each weight, in its shape, or for each block, in `blocks.shape`; low goes first."""

    def state_dict(self) -> dict[str, Any]:
        """Return what later scores depend on, as tensors and plain data."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state."""


def set_up(module: nn.Module, facts: Facts) -> None:
    """Call `module.setup(facts)` where the module has one; wrappers pass facts on with it."""
    setup = method_of(module, "setup")
    if setup is not None:
        setup(facts)


def method_of(part: object, name: str) -> Callable[..., Any] | None:
    """Return a method that a part may define; a buffer, number or submodule of that name is the part's own affair."""
    found = getattr(part, name, None)
    return found if callable(found) and not isinstance(found, nn.Module) else None


def flag_of(part: object, name: str, default: bool = False) -> bool:
    """Return a flag that a part may set; raises WiringError for anything else of that name, which would pass."""
    found = getattr(part, name, default)
    if isinstance(found, bool):
        return found
    raise WiringError(
        f"{type(part).__name__} has an attribute {name!r} of type {type(found).__name__}; that name is taken, for True "
        f"where {_FLAGS[name]}",
        repair=f"give it another name, or set {name} to True or False",
    )
