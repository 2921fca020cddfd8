"""Whole numbers that a trained model yields, where a loss would learn: no gradient flows back through them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from kdcore.address import Address
from kdcore.component import Role
from kdcore.errors import WiringError
from kdcore.pipeline.diagnosis import describe
from kdcore.pipeline.node import Node
from kdcore.pipeline.readers import Batch
from kdcore.pipeline.term import Term

# What belongs to a position, and modules: never what a loss learns from.
_NOT_LEARNT = (Role.LABELS, Role.MODULE)


def check_no_whole_numbers(term: Term, nodes: Mapping[str, Node], batch: Batch) -> None:
    """Raise WiringError if a term learns from an input that is bound to whole numbers of something trained.

    That part of the loss would be computed, and teach nothing. Tokens, indices and lengths are whole by nature, and no
    declaration says which input is which. The loss itself tells: given the same numbers as floating-point ones, it
    depends on what it learns from, and refuses or rounds what it looks up by.

    Called with gradient enabled, in a probe that is undone.
    """
    if term.config.weight == 0:
        return
    inputs = term.read(batch)
    for name, address, value in _suspects(term, nodes, inputs):
        if _learns(term, inputs, name, value):
            raise WiringError(
                f"term {term.name!r} ({term.config.loss.registered}) learns from {name}, but {address} is "
                f"{describe(value)}: no gradient flows back through whole numbers",
                place=term.config.place,
                repair="bind the logits or features that they were made from (a plugin's author: role=Role.LABELS is "
                "for labels, masks and weights)",
            )


def _suspects(
    term: Term, nodes: Mapping[str, Node], inputs: Mapping[str, Any]
) -> Iterator[tuple[str, Address, Tensor]]:
    """Yield whole numbers of something trained, with the input and the address that they are bound to."""
    for name, bound in term.config.inputs.items():
        if term.roles.get(name) in _NOT_LEARNT:
            continue
        addresses, values = (bound, inputs[name]) if isinstance(bound, list) else ([bound], [inputs[name]])
        for address, value in zip(addresses, values, strict=True):
            if address.name in nodes and not nodes[address.name].frozen and _whole(value):
                yield name, address, value


def _whole(value: Any) -> bool:
    # A bool is a mask.
    return isinstance(value, Tensor) and not (
        value.is_floating_point() or value.is_complex() or value.dtype is torch.bool
    )


def _learns(term: Term, inputs: Mapping[str, Any], name: str, value: Tensor) -> bool:
    """Whether the loss depends on `value`, of the input `name`, where it is of floating-point numbers."""
    found, leaf = inputs[name], value.detach().float().requires_grad_()
    given = leaf if isinstance(found, Tensor) else [leaf if each is value else each for each in found]
    try:
        result = term.call({**inputs, name: given}).mean
        (gradient,) = torch.autograd.grad(result, leaf, allow_unused=True)
    except Exception:  # it does want whole numbers, or fails with these too, and then says so itself
        return False
    return gradient is not None
