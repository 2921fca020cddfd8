"""Which nodes run for a set of addresses, in which order, and how far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kdcore.address import Address, What
from kdcore.pipeline.blocks import NO_BLOCKS, Blocks
from kdcore.pipeline.capture import Event, find_module
from kdcore.pipeline.failed_call import failed_call
from kdcore.pipeline.node import Node
from kdcore.pipeline.readers import Batch, is_captured


class NodePass(NamedTuple):
    """How one node runs in a plan: after which event it may stop, and which addresses are read off it."""

    node: Node
    stop: Event | None
    addresses: tuple[Address, ...]


@dataclass(frozen=True)
class Plan:
    """A sequence of nodes, each with the event after which its pass may stop.

    `read` holds, by node, the addresses that a pass must yield.
    """

    steps: tuple[tuple[Node, Event | None], ...]
    read: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)

    def run(self, batch: Batch) -> None:
        """Run every node."""
        for node, stop in self.steps:
            try:
                node.run(batch, stop)
            except Exception as error:  # a model may fail in any way; the cause is chained and named
                raise failed_call(node, batch, error) from error

    def clear(self) -> None:
        """Let go of every node's results."""
        for node, _ in self.steps:
            node.clear()


def ordered(nodes: Mapping[str, Node], addresses: Iterable[Address]) -> list[Node]:
    """Return the nodes that `addresses` need, directly or not, inputs before users."""
    result: list[Node] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen:
            return
        seen.add(name)
        for needed in sorted(nodes[name].needs()):
            visit(needed)
        result.append(nodes[name])

    for address in addresses:
        # A submodule handed to a loss needs no pass of its model.
        if not address.is_batch and address.what is not What.MODULE:
            visit(address.name)
    # Frozen models first: their memory peak comes before any graph is kept.
    frozen_free = [node for node in result if node.frozen and not node.needs()]
    return frozen_free + [node for node in result if node not in frozen_free]


def make_plan(
    nodes: Mapping[str, Node],
    addresses: Iterable[Address],
    traces: Mapping[str, list[Event]],
    *,
    stops: bool = True,
    blocks: Blocks = NO_BLOCKS,
) -> Plan:
    """Return the plan for `addresses`, given what ran in which order in the probe; no pass stops inside a block."""
    wanted = list(addresses)
    order = ordered(nodes, wanted)
    for node in order:
        wanted.extend(node.addresses())
    steps = []
    read: dict[str, tuple[Address, ...]] = {}
    for node in order:
        own = [each for each in wanted if each.name == node.name and each.what is not What.MODULE]
        full = node.always_full or not stops or node.compiled or not all(is_captured(each) for each in own)
        stop = None if full else node.capture.last_event(traces.get(node.name, []), own)
        if stop is not None and blocks.modules and blocks.around(find_module(node.module, stop[0].slots[0].address)):
            stop = None
        steps.append((node, stop))
        read[node.name] = tuple(dict.fromkeys(own))
    return Plan(tuple(steps), read)
