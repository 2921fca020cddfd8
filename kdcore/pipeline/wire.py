"""Wiring a stage: build, probe one batch, set up, freeze, and hand over an Objective."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from kdcore.address import Address
from kdcore.config.config import AdapterConfig, Part, StageConfig
from kdcore.config.distributed import DEEPSPEED, FSDP
from kdcore.contracts import Facts, TensorFacts
from kdcore.errors import AddressError, KdcoreError, Place, WiringError
from kdcore.pipeline.assembly import Assembly
from kdcore.pipeline.blocks import Blocks, Outputs, check_handed, check_partitionable, check_shardable, find_blocks
from kdcore.pipeline.diagnosis import reason
from kdcore.pipeline.fitting import Fitting
from kdcore.pipeline.freeze import Flags, freeze, freeze_parts
from kdcore.pipeline.node import Node
from kdcore.pipeline.objective import Objective, returned_losses
from kdcore.pipeline.order import used_parts
from kdcore.pipeline.plan import make_plan
from kdcore.pipeline.probe import Keeper, Tracer, undone
from kdcore.pipeline.randomness import derive_seed
from kdcore.pipeline.reach import check_apart, check_learnable, check_reached, gradients
from kdcore.pipeline.readers import Batch, Reader, bound_reader, make_readers
from kdcore.pipeline.term import Term, described
from kdcore.pipeline.whole_numbers import check_no_whole_numbers


@dataclass
class Wiring:
    """A wired stage: its Objective, and what the probe saw.

    `unreached` names the parameters that got no gradient, `not_evaluated` the terms that exist in
    training only; `blocks` are sharded apart, where the config shards.
    """

    objective: Objective
    unreached: list[str]
    not_evaluated: list[str]
    blocks: Blocks


def wire(
    stage: StageConfig,
    assembly: Assembly,
    batch: Batch,
    facts: Facts,
    *,
    observe: Iterable[Address] = (),
    observe_evaluation: Iterable[Address] = (),
) -> Wiring:
    """Turn a checked stage into an Objective, complete when this returns.

    Arguments:
        stage: what to wire.
        assembly: the run's models and adapters.
        batch: an example batch, on the assembly's device.
        facts: what is known about the training data.
        observe: outputs to keep per pass, for metrics; those that cannot be read are left out.
        observe_evaluation: the same, for evaluation only.
    """
    return _Wirer(stage, assembly, batch, facts, list(observe), list(observe_evaluation)).wire()


class _Wirer:
    """The steps of wiring one stage, in the order that the design fixes."""

    def __init__(
        self,
        stage: StageConfig,
        assembly: Assembly,
        batch: Batch,
        facts: Facts,
        observe: list[Address],
        observe_evaluation: list[Address],
    ) -> None:
        self.stage = stage
        self.assembly = assembly
        self.config = assembly.config
        self.batch = batch
        self.facts = facts
        self.observe = observe
        self.observe_evaluation = observe_evaluation
        self.bound = [address for term in stage.terms for address in term.addresses]
        self.nodes: dict[str, Node] = {}
        self.readers: dict[Address, Reader] = {}
        self.places = self._places()
        self.flags = Flags()
        self.keeper = Keeper()

    def wire(self) -> Wiring:
        used = used_parts(self.stage, self.config, [*self.bound, *self.observe, *self.observe_evaluation])
        self._make_model_nodes(used)
        try:
            self._freeze_models()
            present = [node.module for node in self.nodes.values()]
            with undone(present, derive_seed(self.config.seed, "probe", self.stage.name)) as self.keeper:
                wiring = self._probe(used)
        except BaseException:
            for node in self.nodes.values():
                node.capture.remove()
            self.flags.restore()
            raise
        finally:
            for node in self.nodes.values():
                node.clear()
        wiring.objective.train()
        return wiring

    def _probe(self, used: list[str]) -> Wiring:
        training = Tracer(self.batch, self.places)
        blocks = find_blocks(self.config, self.stage, self._trained())
        with Outputs(blocks) as outputs:
            self._run_all(used, training)
        check_handed(blocks, self.bound, self._trained())
        self._keep_used_slots()
        fitting = Fitting(self.stage, self.assembly, self.batch, self.facts, self.nodes, self.readers, self.keeper)
        terms = [fitting.term(config) for config in self.stage.terms]
        frozen_parts = self._freeze_patterns()
        check_learnable(self.stage, self.nodes)
        with torch.enable_grad():
            for term in terms:
                check_no_whole_numbers(term, self.nodes, self.batch)
            computed = {term.name: (term, term.compute(self.batch)) for term in terms}
        for term, value in computed.values():
            term.check(self.batch, value, f"stage {self.stage.name!r} trains ({', '.join(self.stage.train)})")
        returned = returned_losses(self.nodes.values())
        values = {**{name: value.mean for name, (_, value) in computed.items()}, **returned}
        balancer = fitting.balancer(returned)
        total = fitting.total(balancer, values)
        reached = gradients(total, [*self._trainable(terms, balancer), *outputs.tensors], self.stage)
        check_reached(self.stage, self.nodes, reached)
        outputs.check(reached)
        observed = self._readable(self.observe)
        for node in self.nodes.values():
            node.clear()

        evaluation = Tracer(self.batch, self.places)
        evaluated, observed_evaluation = self._run_evaluation(used, evaluation, terms)
        needed = [address for term in evaluated for address in term.config.addresses]
        stops = not (self.stage.find_unused or self.stage.compile)
        objective = Objective(
            self.nodes,
            terms,
            balancer,
            adapters=frozenset(self.config.adapters),
            evaluated=frozenset(term.name for term in evaluated),
            observed=(observed, observed_evaluation),
            frozen_parts=frozen_parts,
            flags=self.flags,
            plans=(
                make_plan(self.nodes, self.bound, training.traces, stops=stops, blocks=blocks),
                make_plan(self.nodes, [*needed, *observed_evaluation], evaluation.traces, stops=stops, blocks=blocks),
            ),
        )
        self._check_divisible(objective, blocks)
        unreached = [name for name, parameter in objective.named_trainable() if id(parameter) not in reached]
        return Wiring(objective, unreached, [term.name for term in terms if term not in evaluated], blocks)

    def _check_divisible(self, objective: Objective, blocks: Blocks) -> None:
        """Raise WiringError for parameters that the strategy of several processes cannot split."""
        strategy, place = self.config.distributed.strategy, self.config.place("distributed")
        if strategy == FSDP:
            check_shardable(blocks, objective.named_parameters(), place)
        elif strategy == DEEPSPEED:
            check_partitionable(objective.named_parameters(), place)

    def _trained(self) -> dict[str, nn.Module]:
        return {name: node.module for name, node in self.nodes.items() if not node.frozen}

    def _places(self) -> dict[str, Place]:
        """Return where each address stands, for messages; a model's own inputs come before a term's."""
        places: dict[str, Place] = {}
        for term in self.stage.terms:
            places.update({str(address): term.place for address in term.addresses})
        for adapter in self.config.adapters.values():
            bound = [*adapter.addresses, *([adapter.like] if adapter.like else [])]
            places.update({str(address): adapter.place for address in bound})
        for model in self.config.models.values():
            places.update({str(each): model.place for each in model.addresses})
        return places

    def _make_model_nodes(self, used: list[str]) -> None:
        for name in used:
            if name in self.config.models:
                config = self.config.models[name]
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

    def _freeze_models(self) -> None:
        check_apart(self.nodes, self.stage)
        for node in self.nodes.values():
            self._set_mode(node)

    def _set_mode(self, node: Node) -> None:
        self.flags.keep(node.name, node.module)
        if node.frozen:
            self.assembly.check_trained(node.name, self.stage.name, node.place)
            freeze(node.module)
        else:
            node.module.train()

    def _freeze_patterns(self) -> list[nn.Module]:
        place = self.config.place("stages", self.stage.index, "freeze")
        return freeze_parts(self._trained(), self.stage.freeze, place, names=frozenset(self.nodes))

    def _run_all(self, used: list[str], tracer: Tracer) -> None:
        """Run everything once, in order; adapters are set up when their turn comes."""
        self._read_into("batch")
        for name in used:
            if name in self.config.adapters:
                self._make_adapter_node(self.config.adapters[name])
            node = self.nodes[name]
            self._read_into(name)
            node.connect(self.readers)
            tracer.run(node)
            node.always_full = not node.frozen and bool(node.extracted and node.extracted.losses)

    def _make_adapter_node(self, config: AdapterConfig) -> None:
        try:
            values = {key: bound_reader(bound, self.readers)(self.batch) for key, bound in config.inputs.items()}
            facts = described(values, self.facts)
            if config.like is not None:
                facts = replace(facts, like=TensorFacts.of(self._shape_of(config.like)))
        except AddressError as error:
            raise error.at(config.place) from None
        module = self.assembly.adapter(config, facts)
        node = Node(
            config.name,
            module,
            kwargs=config.inputs,
            frozen=config.name not in self.stage.train,
            place=config.place,
        )
        self._set_mode(node)
        self.keeper.keep(module)
        self.nodes[config.name] = node

    def _shape_of(self, like: Address) -> Any:
        return self.readers[like](self.batch) if like.is_batch else self.nodes[like.name].peek(like, self.batch)

    def _read_into(self, name: str) -> None:
        """Make the readers of every address into one node (or the batch) that the stage uses."""
        bound = [*self.bound, *self.observe, *self.observe_evaluation]
        likes = []
        for adapter in self.config.adapters.values():
            bound += adapter.addresses
            likes += [adapter.like] if adapter.like else []
        for node in self.nodes.values():
            bound += node.addresses()
        ready = [address for address in (*bound, *likes) if address.name == name]
        self.readers.update(make_readers(self.nodes, ready, self.places))

    def _keep_used_slots(self) -> None:
        used = {*self.bound, *self.observe, *self.observe_evaluation}
        for node in self.nodes.values():
            used |= set(node.addresses())
        for node in self.nodes.values():
            node.capture.retain(used)

    def _readable(self, addresses: Iterable[Address]) -> dict[Address, Reader]:
        found = {}
        for address in addresses:
            try:
                self.readers[address](self.batch)
            except AddressError:
                continue  # whoever asked compares what it got
            found[address] = self.readers[address]
        return found

    def _run_evaluation(
        self, used: list[str], tracer: Tracer, terms: list[Term]
    ) -> tuple[list[Term], dict[Address, Reader]]:
        """Run everything once in eval mode and return what can be evaluated there."""
        with torch.no_grad():
            for name in used:
                self.nodes[name].module.eval()
                tracer.run(self.nodes[name], required=False)
            evaluated = [term for term in terms if term.readable(self.batch)]
            return evaluated, self._readable([*self.observe, *self.observe_evaluation])

    def _trainable(self, terms: list[Term], balancer: nn.Module) -> list[nn.Parameter]:
        modules = [*self._trained().values(), *(term.loss for term in terms), balancer]
        found = {id(each): each for module in modules for each in module.parameters() if each.requires_grad}
        return list(found.values())


def _made(part: Part, place: Place) -> Any:
    try:
        return part.build()
    except KdcoreError as error:
        raise error.at(place) from error
    except Exception as error:  # a factory may fail in any way; the cause is chained and named
        raise WiringError(f"{part.registered} could not be built: {reason(error)}", place=place) from error
