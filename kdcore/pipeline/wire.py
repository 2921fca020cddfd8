"""Wiring a stage: build, probe one batch, set up, freeze, and hand over an Objective."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.address import Address
from kdcore.config.config import AdapterConfig, ModelConfig, Part, StageConfig
from kdcore.config.stages import term_addresses
from kdcore.contracts import Facts, TensorFacts, set_up
from kdcore.errors import AddressError, KdcoreError, Place, WiringError
from kdcore.pipeline.assembly import Assembly
from kdcore.pipeline.capture import Event
from kdcore.pipeline.freeze import freeze, freeze_parts
from kdcore.pipeline.node import (
    Batch,
    Node,
    Reader,
    at_place,
    describe,
    failed_call,
    list_reader,
    make_readers,
    reason,
)
from kdcore.pipeline.objective import Objective
from kdcore.pipeline.plan import make_plan
from kdcore.pipeline.probe import Keeper, undone
from kdcore.pipeline.randomness import derive_seed, forked_generators
from kdcore.pipeline.term import Term, described, make_term_loss


@dataclass
class Wiring:
    """A wired stage: its Objective, and what the probe saw."""

    objective: Objective
    unreached: list[str]
    terms: dict[str, Tensor]
    total: Tensor


def wire(
    stage: StageConfig,
    assembly: Assembly,
    batch: Batch,
    facts: Facts,
    *,
    observe: Iterable[Address] = (),
    stops: bool = True,
) -> Wiring:
    """Turn a checked stage into an Objective, complete when this returns.

    Arguments:
        stage: what to wire.
        assembly: the run's models and adapters.
        batch: an example batch, on the assembly's device.
        facts: what is known about the training data.
        observe: outputs to keep per pass, for metrics; those that cannot be read are left out.
        stops: whether forward passes may stop early.
    """
    return _Wirer(stage, assembly, batch, facts, list(observe), stops).wire()


class _Wirer:
    """The steps of wiring one stage, in the order that the design fixes."""

    def __init__(
        self, stage: StageConfig, assembly: Assembly, batch: Batch, facts: Facts, observe: list[Address], stops: bool
    ) -> None:
        self.stage = stage
        self.assembly = assembly
        self.batch = batch
        self.facts = facts
        self.observe = observe
        self.stops = stops
        self.nodes: dict[str, Node] = {}
        self.traces: dict[str, list[Event]] = {}
        self.readers: dict[Address, Reader] = {}
        self.keeper = Keeper()

    def wire(self) -> Wiring:
        config = self.assembly.config
        placed = [(address, term.place) for term in self.stage.terms for address in term_addresses(term)]
        used = self._used([address for address, _ in placed] + self.observe)
        self._make_model_nodes(used)
        self._freeze()
        present = [node.module for node in self.nodes.values()]
        with undone(present, derive_seed(config.seed, "probe", self.stage.name)) as self.keeper:
            try:
                wiring = self._probe_and_finish(used, placed)
            except BaseException:
                for node in self.nodes.values():
                    node.capture.remove()
                raise
            finally:
                for node in self.nodes.values():
                    node.clear()
        wiring.objective.train()
        return wiring

    def _probe_and_finish(self, used: list[str], placed: list[tuple[Address, Place]]) -> Wiring:
        self._probe_forward(used, placed)
        terms = self._make_terms()
        self._check_adapters_frozen()
        frozen_parts = self._freeze_patterns()
        with torch.enable_grad():
            computed = [(term, term.compute(self.batch)) for term in terms]
        trains = f"stage {self.stage.name!r} trains ({', '.join(self.stage.train)})"
        for term, value in computed:
            term.check(self.batch, value, trains)
        values = {term.name: value.mean for term, value in computed}
        returned = self._returned_losses()
        balancer = self._make_balancer(dict.fromkeys(returned))
        addresses = [address for address, _ in placed]
        observed = {address: self.readers[address] for address in self.observe if self._readable(address)}
        train = make_plan(self.nodes, addresses, self.traces, stops=self.stops)
        evaluate = make_plan(self.nodes, [*addresses, *observed], self.traces, stops=self.stops)
        objective = Objective(
            self.nodes,
            terms,
            balancer,
            adapters=frozenset(self.assembly.config.adapters),
            observed=observed,
            frozen_parts=frozen_parts,
            plans=(train, evaluate),
        )
        total = self._probe_backward(objective, {**values, **returned})
        unreached = self._unreached(objective)
        logged = {name: value.detach().float() for name, value in {**values, **returned}.items()}
        return Wiring(objective, unreached, logged, total.detach())

    def _readable(self, address: Address) -> bool:
        try:
            self.readers[address](self.batch)
        except AddressError:
            return False
        return True

    def _used(self, addresses: list[Address]) -> list[str]:
        """Return the names of everything the stage touches, inputs before users."""
        config = self.assembly.config
        found: list[str] = []

        def visit(name: str) -> None:
            if name in found:
                return
            fed_by = _fed_by(config.adapters[name] if name in config.adapters else config.models[name])
            for each in sorted({address.name for address in fed_by if not address.is_batch}):
                visit(each)
            found.append(name)

        for address in addresses:
            if not address.is_batch:
                visit(address.name)
        idle = [name for name in self.stage.train if name not in found]
        if idle:
            raise WiringError(
                f"stage {self.stage.name!r} trains {', '.join(map(repr, idle))}, but no loss looks at "
                f"{'it' if len(idle) == 1 else 'them'}",
                place=self.stage.place,
                repair="bind a loss's input to it, or take it out of train:",
            )
        # `like` gives a shape only, so what it names is probed but feeds nothing.
        for name in list(found):
            adapter = config.adapters.get(name)
            if adapter and adapter.like and not adapter.like.is_batch:
                visit(adapter.like.name)
        return _likes_first(found, config.adapters)

    def _make_model_nodes(self, used: list[str]) -> None:
        for name in used:
            config = self.assembly.config.models.get(name)
            if config is None:
                continue
            self.nodes[name] = Node(
                name,
                self.assembly.models[name],
                args=config.args,
                kwargs=config.kwargs,
                extractor=_made(config.output, config.place),
                frozen=name not in self.stage.train,
                clone_captures=config.clone_captures,
                place=config.place,
            )

    def _freeze(self) -> None:
        for name, node in self.nodes.items():
            if node.frozen:
                self.assembly.check_trained(name, self.stage.name, node.place)
                freeze(node.module)
            else:
                self.assembly.restore_flags(name)
                node.module.train()

    def _freeze_patterns(self) -> list[nn.Module]:
        trained = {name: node.module for name, node in self.nodes.items() if not node.frozen}
        place = self.assembly.config.place("stages", self.stage.index, "freeze")
        return freeze_parts(trained, self.stage.freeze, place, names=frozenset(self.nodes))

    def _probe_forward(self, used: list[str], placed: list[tuple[Address, Place]]) -> None:
        """Run everything once, in order, tracing calls; adapters are set up when their turn comes."""
        wanted = list(placed) + [(address, self.stage.place) for address in self.observe]
        for name in used:
            adapter = self.assembly.config.adapters.get(name)
            if adapter is not None:
                wanted += [(address, adapter.place) for address in _fed_by(adapter)]
                wanted += [(adapter.like, adapter.place)] if adapter.like else []
        for node in self.nodes.values():
            wanted += [(address, node.place) for address in node.addresses()]
        for name in used:
            if name in self.assembly.config.adapters:
                self._make_adapter_node(self.assembly.config.adapters[name])
            node = self.nodes[name]
            self._read_into(wanted, {name, "batch"})
            self._run_traced(node)

    def _make_adapter_node(self, config: AdapterConfig) -> None:
        inputs = {key: _bound_reader(bound, self.readers) for key, bound in config.inputs.items()}
        values = {key: _read(read, self.batch, config.place) for key, read in inputs.items()}
        facts = described(values, self.facts)
        if config.like is not None:
            facts = replace(facts, like=TensorFacts.of(_read(self.readers[config.like], self.batch, config.place)))
        module = self.assembly.adapter(config, facts)
        frozen = config.name not in self.stage.train
        if frozen:
            freeze(module)
        else:
            self.assembly.restore_flags(config.name)
            module.train()
        self.keeper.keep(module)
        self.nodes[config.name] = Node(config.name, module, kwargs=config.inputs, frozen=frozen, place=config.place)

    def _read_into(self, wanted: list[tuple[Address, Place]], names: set[str]) -> None:
        ready = [(address, place) for address, place in wanted if address.name in names and address not in self.readers]
        self.readers.update(make_readers(self.nodes, ready))

    def _run_traced(self, node: Node) -> None:
        capture = node.capture
        node.connect(self.readers)
        trace: list[Event] = []
        capture.trace = trace
        try:
            with torch.enable_grad():
                node.run(self.batch)
        except AddressError as error:
            raise at_place(error, self._place_of(error, node)) from None
        except Exception as error:  # a model may fail in any way; the cause is chained and named
            raise failed_call(node, self.batch, error) from error
        finally:
            capture.trace = None
        self.traces[node.name] = trace
        try:
            capture.check_calls(trace, "eval mode" if node.frozen else "training mode")
        except AddressError as error:
            raise at_place(error, self._place_of(error, node)) from None
        node.always_full = node.extracted is not None and bool(node.extracted.losses) and not node.frozen

    def _place_of(self, error: AddressError, node: Node) -> Place:
        text = error.problem.what.split(": ")[0]
        if any(str(address) == text for address in node.addresses()):
            return node.place
        for term in self.stage.terms:
            if any(str(address) == text for address in term_addresses(term)):
                return term.place
        for adapter in self.assembly.config.adapters.values():
            if any(str(address) == text for address in _fed_by(adapter)):
                return adapter.place
        return node.place

    def _check_adapters_frozen(self) -> None:
        for name, adapter in self.assembly.config.adapters.items():
            if name in self.nodes and self.nodes[name].frozen:
                self.assembly.check_trained(name, self.stage.name, adapter.place)

    def _make_terms(self) -> list[Term]:
        terms = []
        for config in self.stage.terms:
            with forked_generators(derive_seed(self.assembly.config.seed, "loss", self.stage.name, config.name)):
                loss = make_term_loss(config)
                readers = {key: _bound_reader(bound, self.readers) for key, bound in config.inputs.items()}
                term = Term(config, loss, readers)
                try:
                    set_up(loss, term.facts(self.batch, self.facts))
                except KdcoreError as error:
                    raise at_place(error, config.place) from None
                except Exception as error:  # a loss may fail in any way; the cause is chained and named
                    what = f"term {config.name!r} ({config.loss.registered}) could not be set up: {reason(error)}"
                    raise WiringError(what, place=config.place) from error
            loss.to(self.assembly.device)
            _check_dimensions(f"term {config.name!r}", loss, config.place)
            loss.train()
            self.keeper.keep(loss)
            terms.append(term)
        return terms

    def _returned_losses(self) -> dict[str, Tensor]:
        return {
            f"{node.name}.{key}": loss
            for node in self.nodes.values()
            if not node.frozen and node.extracted is not None
            for key, loss in node.extracted.losses.items()
        }

    def _make_balancer(self, returned: dict[str, None]) -> nn.Module:
        part = self.stage.balancer
        weights: dict[str, float | None] = {term.name: term.weight for term in self.stage.terms}
        try:
            balancer = part.build(terms={**weights, **returned})
            set_up(balancer, self.facts)
        except KdcoreError as error:
            raise at_place(error, part.place) from None
        except Exception as error:  # a balancer may fail in any way; the cause is chained and named
            raise WiringError(f"{part.registered}: {reason(error)}", place=part.place) from error
        if not isinstance(balancer, nn.Module):
            raise WiringError(f"{part.registered} made a {type(balancer).__name__}, not an nn.Module", place=part.place)
        balancer.to(self.assembly.device)
        _check_dimensions(str(part.registered), balancer, part.place)
        balancer.train()
        self.keeper.keep(balancer)
        return balancer

    def _probe_backward(self, objective: Objective, values: Mapping[str, Tensor]) -> Tensor:
        part = self.stage.balancer
        try:
            with torch.enable_grad():
                total = objective.balancer(dict(values))
        except Exception as error:  # a balancer may fail in any way; the cause is chained and named
            what = f"{part.registered} failed on the terms {', '.join(values)}: {reason(error)}"
            raise WiringError(what, place=part.place) from error
        if not isinstance(total, Tensor) or total.dim() > 0:
            what = f"{part.registered} must return a scalar, found {describe(total)}"
            raise WiringError(what, place=part.place)
        if not total.requires_grad:
            raise WiringError(
                f"no term of stage {self.stage.name!r} depends on what it trains ({', '.join(self.stage.train)})",
                place=self.stage.place,
                repair="bind a loss's input to it; the teacher's side of a loss is detached",
            )
        try:
            total.backward()  # type: ignore[no-untyped-call]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise WiringError(
                f"the backward pass of stage {self.stage.name!r} failed: {reason(error)}",
                place=self.stage.place,
                repair="look for a loss or adapter that changes its inputs in place",
            ) from error
        return total

    def _unreached(self, objective: Objective) -> list[str]:
        """Freeze what the probe's backward left without gradient, and return its names."""
        for name in self.stage.train:
            parameters = [each for each in self.nodes[name].module.parameters() if each.requires_grad]
            if not parameters:
                raise WiringError(
                    f"{name!r} is trained in stage {self.stage.name!r} but has no parameter that may learn",
                    place=self.stage.place,
                    repair="take it out of train:, or loosen freeze:",
                )
            if all(each.grad is None for each in parameters):
                raise WiringError(
                    f"{name!r} is trained in stage {self.stage.name!r}, but no term's gradient reaches it",
                    place=self.stage.place,
                    repair="bind an input of a loss that is not detached (the student's side) to it",
                )
        unreached = [name for name, parameter in objective.named_trainable() if parameter.grad is None]
        if not self.stage.find_unused:
            trainable = dict(objective.named_trainable())
            for name in unreached:
                trainable[name].requires_grad_(False)
        return unreached


def _made(part: Part, place: Place) -> Any:
    try:
        return part.build()
    except KdcoreError as error:
        raise at_place(error, place) from error
    except Exception as error:  # a factory may fail in any way; the cause is chained and named
        raise WiringError(f"{part.registered} could not be built: {reason(error)}", place=place) from error


def _fed_by(config: ModelConfig | AdapterConfig) -> list[Address]:
    bound = [*config.args, *config.kwargs.values()] if isinstance(config, ModelConfig) else [*config.inputs.values()]
    flat = [each for item in bound for each in (item if isinstance(item, list) else [item])]
    return [each for each in flat if isinstance(each, Address)]


def _likes_first(names: list[str], adapters: Mapping[str, AdapterConfig]) -> list[str]:
    """Reorder so that what an adapter's `like` names runs before the adapter is set up."""
    result: list[str] = []

    def visit(name: str, waiting: frozenset[str]) -> None:
        if name in result or name in waiting:
            return
        adapter = adapters.get(name)
        if adapter is not None:
            needs = {address.name for address in _fed_by(adapter)} | ({adapter.like.name} if adapter.like else set())
            for each in names:
                if each in needs:
                    visit(each, waiting | {name})
        result.append(name)

    for name in names:
        visit(name, frozenset())
    return result


def _bound_reader(bound: Address | list[Address], readers: Mapping[Address, Reader]) -> Reader:
    return list_reader([readers[each] for each in bound]) if isinstance(bound, list) else readers[bound]


def _read(read: Reader, batch: Batch, place: Place) -> object:
    try:
        return read(batch)
    except AddressError as error:
        raise at_place(error, place) from None


def _check_dimensions(what: str, module: nn.Module, place: Place) -> None:
    flat = [name for name, parameter in module.named_parameters() if parameter.dim() == 0]
    if flat:
        raise WiringError(
            f"{what}: its own parameters {flat} have no dimension, which sharded training cannot split",
            place=place,
            repair="give them shape (1,)",
        )
