"""The blocks of a sharded stage: which modules they are, and that sharding them leaves every loss its gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.address import Address, What
from kdcore.config.config import Config, StageConfig
from kdcore.config.distributed import FSDP
from kdcore.errors import Place, WiringError, suggestion
from kdcore.pipeline.capture import hooks_of_captures
from kdcore.pipeline.versions import leaves


@dataclass(frozen=True)
class Blocks:
    """The modules that are sharded apart, by full name (`student.layers.0`), inner ones before outer ones."""

    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    place: Place = Place()

    def around(self, module: nn.Module) -> str | None:
        """Return the block that `module` lies strictly inside, if any."""
        for name, block in self.modules.items():
            if module is not block and any(each is module for each in block.modules()):
                return name
        return None

    def own(self, block: nn.Module) -> list[nn.Parameter]:
        """Return the parameters that are gathered with a block: those of no block within it."""
        within = [each for each in self.modules.values() if each is not block and self._holds(block, each)]
        inner = {id(parameter) for each in within for parameter in each.parameters()}
        return [parameter for parameter in block.parameters() if id(parameter) not in inner]

    def put_watches_outside(self) -> None:
        """Let what looks at a block see its inputs before they are sharded, and its outputs afterwards.

        A pass that ends there then ends outside of the block, whose parameters have been let go.
        """
        for module, hooks, key in hooks_of_captures(self.modules):
            getattr(module, hooks).move_to_end(key, last=hooks == "_forward_hooks")

    @staticmethod
    def _holds(outer: nn.Module, inner: nn.Module) -> bool:
        return any(each is inner for each in outer.modules())


NO_BLOCKS = Blocks()


class Outputs:
    """Within the `with` block, keeps the tensors that blocks return, to see whether a gradient comes back to them."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks
        self.seen: dict[str, list[Tensor]] = {name: [] for name in blocks.modules}

    def __enter__(self) -> Outputs:
        self._handles = [
            module.register_forward_hook(self._keeping(self.seen[name])) for name, module in self.blocks.modules.items()
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def tensors(self) -> list[Tensor]:
        """The outputs that can have a gradient."""
        return [each for several in self.seen.values() for each in several]

    def check(self, reached: set[int]) -> None:
        """Raise WiringError for a block whose parameters get a gradient from within, and none through its output.

        Its parameters are gathered again when the gradient comes back through the output: here it never does.
        """
        for name, module in self.blocks.modules.items():
            outputs = self.seen[name]
            inside = [each for each in self.blocks.own(module) if id(each) in reached]
            if inside and outputs and not any(id(each) in reached for each in outputs):
                raise WiringError(
                    f"a loss looks inside the sharded block {name}, and nothing uses the block's output: in the "
                    "backward pass its parameters would not be gathered",
                    place=self.blocks.place,
                    repair="shard its parts instead, leave it out of shard:, or let the loss look at its output",
                )

    @staticmethod
    def _keeping(seen: list[Tensor]) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            seen.extend(each for each in leaves(output) if each.requires_grad)

        return keep


def find_blocks(config: Config, stage: StageConfig, trained: Mapping[str, nn.Module]) -> Blocks:
    """Return the blocks of what a stage trains; raises WiringError for what cannot be sharded.

    Arguments:
        config: whose `distributed:` says what is sharded.
        stage: in messages.
        trained: the models that the stage trains.
    """
    if config.distributed.strategy != FSDP:
        return NO_BLOCKS
    place = config.place("distributed", "shard")
    found: dict[str, nn.Module] = {}
    for index, pattern in enumerate(config.distributed.shard):
        head = pattern.split(".")[0]
        if head in trained:
            found.update(_matching(pattern, trained[head], config.place("distributed", "shard", index)))
    deepest_first = sorted(found, key=lambda name: -name.count("."))
    blocks = Blocks({name: found[name] for name in deepest_first}, place)
    _check_shared(blocks, trained)
    return blocks


def check_shardable(blocks: Blocks, named_parameters: Iterable[tuple[str, nn.Parameter]], place: Place) -> None:
    """Raise WiringError for parameters that cannot be split, or not be gathered together."""
    parameters = _with_dimensions(named_parameters, place)
    groups = {name: {id(each) for each in blocks.own(module)} for name, module in blocks.modules.items()}
    taken = set().union(*groups.values())
    groups["all that is no part of a block"] = {id(each) for _, each in parameters} - taken
    for name, group in groups.items():
        members = [(full, each) for full, each in parameters if id(each) in group and each.requires_grad]
        dtypes = {each.dtype: full for full, each in members}
        if len(dtypes) > 1:
            shown = ", ".join(f"{full} is {str(dtype).removeprefix('torch.')}" for dtype, full in dtypes.items())
            raise WiringError(
                f"what is gathered together has one dtype, and {name} has several: {shown}",
                place=place,
                repair="shard those of one dtype as blocks, train all in one dtype, or write strategy: ddp",
            )


def check_partitionable(named_parameters: Iterable[tuple[str, nn.Parameter]], place: Place) -> None:
    """Raise WiringError for parameters that DeepSpeed cannot step in one flat tensor of 32-bit numbers."""
    parameters = _with_dimensions(named_parameters, place)
    others = [(name, each.dtype) for name, each in parameters if each.requires_grad and each.dtype != torch.float32]
    if others:
        name, dtype = others[0]
        raise WiringError(
            f"strategy: deepspeed trains parameters of float32, and {name} is {str(dtype).removeprefix('torch.')}",
            place=place,
            repair="train it in float32 (precision: bfloat16 of the stage computes in bfloat16), freeze it, or write "
            "strategy: ddp",
        )


def _with_dimensions(
    named_parameters: Iterable[tuple[str, nn.Parameter]], place: Place
) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters under their full names; raises WiringError for one without a dimension."""
    parameters = [(name.removeprefix("models.").removeprefix("adapters."), each) for name, each in named_parameters]
    flat = [name for name, parameter in parameters if parameter.dim() == 0]
    if flat:
        raise WiringError(
            f"parameters without a dimension cannot be sharded: {', '.join(flat[:5])}",
            place=place,
            repair="give them shape (1,), or write strategy: ddp",
        )
    return parameters


def check_handed(blocks: Blocks, addresses: Iterable[Address], trained: Mapping[str, nn.Module]) -> None:
    """Raise WiringError where a module is handed to a loss out of a block that is not whole by then."""
    for address in addresses:
        if address.what is not What.MODULE or address.name not in trained or not blocks.modules:
            continue
        around = blocks.around(trained[address.name].get_submodule(address.path))
        if around is not None:
            raise WiringError(
                f"{address} lies inside the sharded block {around}, whose parameters are gathered only while the "
                "block runs",
                place=blocks.place,
                repair=f"leave {around} out of shard:, or shard {address.name}.{address.path} instead",
            )


def _matching(pattern: str, root: nn.Module, place: Place) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that a pattern names; `*` does not reach over a dot."""
    head = pattern.split(".", maxsplit=1)[0]
    names = {f"{head}.{path}" if path else head: each for path, each in root.named_modules()}
    matched = [name for name in names if _matches(name.split("."), pattern.split("."))]
    if not matched:
        raise WiringError(
            f"shard: {pattern!r} matches no module of {head!r}",
            place=place,
            repair=suggestion(pattern, names, noun="modules"),
        )
    for name in matched:
        module = names[name]
        if type(module).forward is nn.Module.forward or isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            raise WiringError(
                f"shard: {pattern!r} matches {name}, a {type(module).__name__}, which holds modules and never runs",
                place=place,
                repair=f"write {name}.*",
            )
        yield name, module


def _matches(name: Sequence[str], pattern: Sequence[str]) -> bool:
    return len(name) == len(pattern) and all(map(fnmatchcase, name, pattern))


def _check_shared(blocks: Blocks, trained: Mapping[str, nn.Module]) -> None:
    """Raise WiringError where a block shares a parameter with something outside of it."""
    for name, block in blocks.modules.items():
        own = {id(each) for each in block.parameters()}
        held = {id(each) for each in block.modules()}
        for head, root in trained.items():
            for path, module in root.named_modules():
                shared = [key for key, each in module.named_parameters(recurse=False) if id(each) in own]
                if shared and id(module) not in held:
                    raise WiringError(
                        f"the sharded block {name} shares a parameter with {'.'.join(filter(None, (head, path)))} "
                        f"({shared[0]}): both would split it",
                        place=blocks.place,
                        repair="leave it out of shard:, so that what is shared is gathered with the rest",
                    )
