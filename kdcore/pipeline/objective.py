"""The Objective: everything from models to balancer as one module that turns a batch into a loss."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdcore.address import Address
from kdcore.contracts import method_of
from kdcore.errors import WiringError, suggestion
from kdcore.pipeline.agreement import check_agreement
from kdcore.pipeline.capture import strip_hooks
from kdcore.pipeline.diagnosis import reason
from kdcore.pipeline.freeze import Flags, keep_frozen
from kdcore.pipeline.modules import Modules
from kdcore.pipeline.node import Node
from kdcore.pipeline.plan import NodePass, Plan
from kdcore.pipeline.readers import Batch, Reader
from kdcore.pipeline.term import Term, Value


class ObjectiveOutput(NamedTuple):
    """The scalar to call backward on, and the named terms, detached and in float32."""

    total: Tensor
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class Share:
    """What part of an optimizer step a batch is, under accumulation or several processes.

    `fraction` is the batch's part of all samples of the step; `counts` are, for terms over
    positions, the positions of the whole step. The totals of all parts then add up to what
    one batch of all samples would have given. `StepCounts` makes them.
    """

    fraction: Tensor | float = 1.0
    counts: Mapping[str, Tensor | float] = field(default_factory=dict)


@dataclass
class Latest:
    """What the latest pass left for the engine; a plain object, since a module's attributes are slow to set."""

    observed: dict[Address, Any] = field(default_factory=dict)
    counts: dict[str, Tensor | float] = field(default_factory=dict)


class Pass(NamedTuple):
    """What one mode runs, computes, adds up and keeps; a module's own submodules are slow to look up."""

    plan: Plan
    terms: tuple[Term, ...]
    balancer: nn.Module
    observers: Mapping[Address, Reader]


class Objective(nn.Module):
    """Turns a batch into a total and named terms; built by `build_objective`.

    Trained models and adapters, losses and the balancer are submodules: they train, move, save and
    shard with it. Frozen models and adapters move with it too, but stay out of its state_dict.
    """

    def __init__(
        self,
        nodes: Mapping[str, Node],
        terms: Sequence[Term],
        balancer: nn.Module,
        *,
        adapters: frozenset[str],
        evaluated: frozenset[str],
        observed: tuple[Mapping[Address, Reader], Mapping[Address, Reader]],
        frozen_parts: Sequence[nn.Module],
        flags: Flags,
        plans: tuple[Plan, Plan],
    ) -> None:
        super().__init__()
        trained = {name: node.module for name, node in nodes.items() if not node.frozen}
        self.models = Modules({name: module for name, module in trained.items() if name not in adapters})
        self.adapters = Modules({name: module for name, module in trained.items() if name in adapters})
        self.losses = Modules({term.name: term.loss for term in terms})
        self.balancer = balancer
        self._latest = Latest()
        self._nodes = dict(nodes)
        self._terms = tuple(terms)
        self._frozen_parts = list(frozen_parts)
        self._flags = flags
        self._passes = {
            True: Pass(plans[0], self._terms, balancer, _observable(plans[0], observed[0])),
            False: Pass(
                plans[1],
                tuple(term for term in terms if term.name in evaluated),
                balancer,
                _observable(plans[1], observed[1]),
            ),
        }
        self._sources = [node for node in nodes.values() if node.always_full]
        # Outermost objects only: a wrapper tells the loss within.
        parts = (self.models, self.adapters, self.losses)
        components = [*(child for part in parts for child in part.children()), balancer]
        self._paced = [component for component in components if method_of(component, "progress")]

    @property
    def observed(self) -> dict[Address, Any]:
        """The outputs that the latest pass kept for metrics, detached."""
        return self._latest.observed

    @property
    def counts(self) -> dict[str, Tensor | float]:
        """The positions that each term over positions counted in the latest pass."""
        return self._latest.counts

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms that the config names (models may return more)."""
        return self._terms

    def forward(self, batch: Batch, share: Share | None = None) -> ObjectiveOutput:
        """Compute the total and the terms of one batch."""
        plan, terms, _, observers = self._passes[self.training]
        latest = self._latest
        latest.observed = {}
        if self._frozen_parts:
            keep_frozen(self._frozen_parts)
        try:
            plan.run(batch)
            values, logged = self._compute(batch, terms, share)
            total = self.balance(values)
            if share is not None:
                total = total * share.fraction
            latest.observed = {address: _detached(read(batch)) for address, read in observers.items()}
        finally:
            plan.clear()
        return ObjectiveOutput(total, logged)

    def _compute(
        self, batch: Batch, terms: Sequence[Term], share: Share | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        values: dict[str, Tensor] = {}
        logged: dict[str, Tensor] = {}
        for term in terms:
            value = term.compute(batch)
            logged[term.name] = _logged(value.mean)
            values[term.name] = value.mean
            if value.total is not None and value.positions is not None:
                self._latest.counts[term.name] = _detached(value.positions)
                if share is not None:
                    values[term.name] = _part(term, value, share)
        if self._sources:
            for name, loss in returned_losses(self._sources).items():
                values[name] = loss
                logged[name] = _logged(loss)
        return values, logged

    def balance(self, values: dict[str, Tensor]) -> Tensor:
        """Return the total of given terms, for example of their means over a data set."""
        if not self.training and len(self._passes[False].terms) < len(self._terms):
            # Terms that exist in training only count as nothing in evaluation.
            zero = next(iter(values.values()), torch.zeros(())).new_zeros(())
            values = {**{term.name: zero for term in self._terms}, **values}
        try:
            return self._passes[self.training].balancer(values)  # type: ignore[no-any-return]
        except Exception as error:  # a balancer may fail in any way; the cause is chained and named
            what = f"the balancer failed on the terms {', '.join(values)}: {reason(error)}"
            raise WiringError(what) from error

    def term_values(self, batch: Batch) -> dict[str, Tensor]:
        """Return every term with its graph, for looking at gradients term by term."""
        plan, terms, *_ = self._passes[self.training]
        try:
            plan.run(batch)
            return self._compute(batch, terms, None)[0]
        finally:
            plan.clear()

    def node_pass(self, name: str, *, training: bool) -> NodePass | None:
        """Return how a model or adapter runs in one of the two modes, None if it does not."""
        plan, _, _, observers = self._passes[training]
        for node, stop in plan.steps:
            if node.name == name:
                observed = [address for address in observers if address.name == name]
                return NodePass(node, stop, tuple(dict.fromkeys((*plan.read[name], *observed))))
        return None

    def count(self, batch: Batch) -> dict[str, Tensor | float]:
        """Return, before any forward, the positions that each term over positions will count in `batch`."""
        found = {term.name: term.count(batch) for term in self._terms if term.counts}
        return {name: count for name, count in found.items() if count is not None}

    def progress(self, step: int, total_steps: int, epoch: int) -> None:
        """Tell every component that wants to know how far training has come."""
        for module in self._paced:
            module.progress(step, total_steps, epoch)  # type: ignore[operator]

    def check_agreement(self) -> None:
        """Raise WiringError if a frozen model or adapter is not the same in every process; all processes call it.

        Nothing makes them equal: each process keeps what it has built or loaded. It reads their weights once.
        """
        frozen = [node for node in self._nodes.values() if node.frozen]
        check_agreement({node.name: node.module for node in frozen}, {node.name: node.place for node in frozen})

    def train(self, mode: bool = True) -> Objective:
        """Set the mode of what is trained; frozen parts stay in eval mode."""
        super().train(mode)
        keep_frozen(self._frozen_parts)
        return self

    def export_student(self, name: str = "student") -> nn.Module:
        """Return a plain copy of a model: its own class, without hooks, adapters or teacher."""
        if name not in self._nodes:
            models = [node.name for node in self._nodes.values() if node.extractor is not None]
            raise WiringError(f"there is no model {name!r} to export", repair=suggestion(name, models, noun="models"))
        exported = copy.deepcopy(self._nodes[name].module)
        strip_hooks(exported)
        self._flags.apply(name, exported)
        return exported

    def named_trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield trainable parameters as `<model or adapter>.<path>`, `losses.<term>...` and `balancer...`."""
        seen: set[int] = set()
        for prefix, module in (
            ("", self.models),
            ("", self.adapters),
            ("losses.", self.losses),
            ("balancer.", self.balancer),
        ):
            for name, parameter in module.named_parameters():
                if parameter.requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield prefix + name, parameter

    def compile_models(self) -> None:
        """Compile every model and adapter, until `close`; their hooks are in place by now, as they must be."""
        for node in self._nodes.values():
            node.compile()

    def close(self) -> None:
        """Take the hooks off and let parameters require gradient as before; the Objective ends here."""
        compiled = [node.release() for node in self._nodes.values()]
        if any(compiled):
            _forget_compiled()
        self._flags.restore()

    @property
    def entries(self) -> set[str]:
        """The entries of a batch that a pass in the present mode (training or evaluation) reads."""
        plan, terms, *_ = self._passes[self.training]
        addresses = [address for term in terms for address in term.config.addresses]
        addresses += [address for node, _ in plan.steps for address in node.addresses()]
        return {address.path for address in addresses if address.is_batch}

    @property
    def evaluated(self) -> list[str]:
        """The terms that are computed in evaluation too."""
        return [term.name for term in self._passes[False].terms]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Objective:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for node in self._nodes.values():
            if node.frozen:
                node.module._apply(fn)  # type: ignore[no-untyped-call]
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Objective:
        raise TypeError("an Objective is wired to its models and cannot be copied; export_student() copies a model")

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("an Objective is wired to its models and cannot be pickled; save its state_dict()")


def returned_losses(nodes: Iterable[Node]) -> dict[str, Tensor]:
    """Return the losses that trained models returned in the latest pass, as `<model>.<key>`."""
    return {
        f"{node.name}.{key}": loss
        for node in nodes
        if not node.frozen and node.extracted is not None
        for key, loss in node.extracted.losses.items()
    }


def _observable(plan: Plan, observed: Mapping[Address, Reader]) -> dict[Address, Reader]:
    """Leave out outputs of models that the plan does not run to their end."""
    complete = {node.name for node, stop in plan.steps if stop is None}
    return {address: read for address, read in observed.items() if address.is_batch or address.name in complete}


def _part(term: Term, value: Value, share: Share) -> Tensor:
    """Return a term over positions as if it stood for the whole step that `share` is a part of."""
    assert value.total is not None
    if term.name in share.counts:
        return value.total / (share.counts[term.name] * share.fraction)
    if isinstance(share.fraction, float) and share.fraction == 1:
        return value.mean
    raise WiringError(
        f"term {term.name!r} returns (sum, count) but cannot tell its count before a forward pass: the mean over all "
        "positions of a step in several parts cannot be formed",
        place=term.config.place,
        repair="bind its labels or mask to the batch, choose a reduction to a scalar, or take the step in one batch",
    )


def _logged(value: Tensor) -> Tensor:
    value = value.detach()
    return value if value.dtype is torch.float32 else value.float()


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _forget_compiled() -> None:
    """Forget what was compiled in this process, for torch counts it against each class's code, of models now gone too.

    After eight it would compile no more. What else is compiled here is compiled again when it is next called.
    """
    import torch._dynamo  # here: it takes a second, and few stages are compiled

    torch._dynamo.reset()
