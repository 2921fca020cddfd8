"""The losses and the balancer of a stage: made from the config, told what they will see, and taken in."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kdcore.address import Address
from kdcore.config.config import StageConfig, TermConfig
from kdcore.contracts import Facts, set_up
from kdcore.errors import KdcoreError, Place, WiringError
from kdcore.pipeline.assembly import Assembly
from kdcore.pipeline.diagnosis import reason
from kdcore.pipeline.node import Node
from kdcore.pipeline.probe import Keeper
from kdcore.pipeline.randomness import derive_seed, forked_generators
from kdcore.pipeline.readers import Batch, Reader, bound_reader
from kdcore.pipeline.term import Term, make_term_loss


class Fitting:
    """Makes losses and balancer while a stage is probed.

    Arguments:
        stage: what asks for them.
        assembly: whose device they come to.
        batch: the example batch.
        facts: what is known about the training data.
        nodes: the models and adapters of the stage, which no loss may make its own.
        readers: of every address that a term is bound to.
        keeper: puts their state back after the probe.
    """

    def __init__(
        self,
        stage: StageConfig,
        assembly: Assembly,
        batch: Batch,
        facts: Facts,
        nodes: Mapping[str, Node],
        readers: Mapping[Address, Reader],
        keeper: Keeper,
    ) -> None:
        self.stage = stage
        self.assembly = assembly
        self.batch = batch
        self.facts = facts
        self.nodes = nodes
        self.readers = readers
        self.keeper = keeper

    def term(self, config: TermConfig) -> Term:
        """Make a loss, tell it what it will see, and return it bound to its inputs."""
        with forked_generators(derive_seed(self.assembly.config.seed, "loss", self.stage.name, config.name)):
            loss = make_term_loss(config)
            readers = {key: bound_reader(bound, self.readers) for key, bound in config.inputs.items()}
            term = Term(config, loss, readers, self.assembly.device)
            try:
                set_up(loss, term.facts(self.batch, self.facts))
            except KdcoreError as error:
                raise error.at(config.place) from None
            except Exception as error:  # a loss may fail in any way; the cause is chained and named
                what = f"term {config.name!r} ({config.loss.registered}) could not be set up: {reason(error)}"
                raise WiringError(what, place=config.place) from error
        self._adopt(f"term {config.name!r}", loss, config.place)
        return term

    def balancer(self, returned: Mapping[str, Tensor]) -> nn.Module:
        """Make the balancer of all terms, among them the losses that models return themselves."""
        part = self.stage.balancer
        weights: dict[str, float | None] = {term.name: term.weight for term in self.stage.terms}
        try:
            balancer = part.build(terms={**weights, **dict.fromkeys(returned)})
            set_up(balancer, self.facts)
        except KdcoreError as error:
            raise error.at(part.place) from None
        except Exception as error:  # a balancer may fail in any way; the cause is chained and named
            raise WiringError(f"{part.registered}: {reason(error)}", place=part.place) from error
        if not isinstance(balancer, nn.Module):
            raise WiringError(f"{part.registered} made a {type(balancer).__name__}, not an nn.Module", place=part.place)
        self._adopt(str(part.registered), balancer, part.place)
        return balancer

    def _adopt(self, what: str, module: nn.Module, place: Place) -> None:
        """Bring a loss or balancer to the device, once it is sure that it is nobody else's."""
        owners = {id(each): node.name for node in self.nodes.values() for each in node.module.modules()}
        taken = [name for name, each in module.named_modules() if id(each) in owners]
        if taken:
            raise WiringError(
                f"{what} made a module of {owners[id(module.get_submodule(taken[0]))]!r} its own, as {taken[0]!r}: "
                "it would be trained and saved with the loss",
                place=place,
                repair="a loss keeps what it needs of a module as buffers, or reads it from its input in each step",
            )
        flat = [name for name, parameter in module.named_parameters() if parameter.dim() == 0]
        if flat:
            raise WiringError(
                f"{what}: its own parameters {flat} have no dimension, which sharded training cannot split",
                place=place,
                repair="give them shape (1,)",
            )
        module.to(self.assembly.device)
        module.train()
        self.keeper.keep(module)

    def total(self, balancer: nn.Module, values: Mapping[str, Tensor]) -> Tensor:
        """Return what the balancer makes of the terms' values; raises WiringError unless that is a scalar."""
        part = self.stage.balancer
        try:
            with torch.enable_grad():
                total = balancer(dict(values))
        except Exception as error:  # a balancer may fail in any way; the cause is chained and named
            what = f"{part.registered} failed on the terms {', '.join(values)}: {reason(error)}"
            raise WiringError(what, place=part.place) from error
        if not isinstance(total, Tensor) or total.dim() > 0:
            raise WiringError(f"{part.registered} must return a scalar tensor", place=part.place)
        return total
