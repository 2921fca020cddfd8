"""Which models and adapters a stage touches, inputs before users."""

from __future__ import annotations

from collections.abc import Iterable

from kdcore.address import Address
from kdcore.config.config import Config, StageConfig
from kdcore.errors import WiringError


def used_parts(stage: StageConfig, config: Config, addresses: Iterable[Address]) -> list[str]:
    """Return the names of everything that yields one of `addresses`, in the order it can run.

    What an adapter's `like:` names comes before the adapter, although it feeds it only a shape.

    Raises:
        WiringError: the stage trains something that is not among them.
    """
    order: list[str] = []
    waiting: set[str] = set()

    def visit(name: str) -> None:
        if name in order or name in waiting:
            return
        waiting.add(name)
        for each in _needs(config, name):
            visit(each)
        waiting.discard(name)
        order.append(name)

    for address in addresses:
        if not address.is_batch:
            visit(address.name)
    idle = [name for name in stage.train if name not in order]
    if idle:
        raise WiringError(
            f"stage {stage.name!r} trains {', '.join(map(repr, idle))}, but no loss looks at "
            f"{'it' if len(idle) == 1 else 'them'}",
            place=stage.place,
            repair="bind a loss's input to it, or take it out of train:",
        )
    return order


def _needs(config: Config, name: str) -> list[str]:
    if name in config.models:
        bound = config.models[name].addresses
    else:
        adapter = config.adapters[name]
        bound = [*adapter.addresses, *([adapter.like] if adapter.like else [])]
    return sorted({address.name for address in bound if not address.is_batch})
