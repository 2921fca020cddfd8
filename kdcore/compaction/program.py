"""A model's operations, written down in one pass over a real batch."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from kdcore.errors import WiringError
from kdcore.pipeline.diagnosis import reason

_GETITEM = "getitem"


class Slot(NamedTuple):
    """One tensor of the program: which output of which node."""

    node: fx.Node
    output: int = 0


@dataclass(frozen=True)
class Step:
    """One operation: its name (`linear`, `conv2d`, ...), its arguments by name, and the module that runs it."""

    node: fx.Node
    op: str
    target: Any
    arguments: Mapping[str, Any]
    module: str

    @property
    def pointwise(self) -> bool:
        """Whether each element of the output depends on the elements at its own place alone."""
        tags = getattr(self.target, "tags", ())
        return torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags


@dataclass
class Program:
    """The operations in order, the tensors they read and write, and what those held on the batch.

    `parameters` names each parameter and buffer by the slot that holds it; tied ones share a slot.
    """

    steps: list[Step] = field(default_factory=list)
    values: dict[Slot, Tensor] = field(default_factory=dict)
    parameters: dict[Slot, list[str]] = field(default_factory=dict)
    buffers: dict[Slot, list[str]] = field(default_factory=dict)
    inputs: list[Slot] = field(default_factory=list)
    outputs: list[Slot] = field(default_factory=list)
    _same: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def slot(self, node: fx.Node) -> Slot:
        """Return where the tensor of a node is: getitem only points at another node's output."""
        if node.op == "call_function" and _name(node.target) == _GETITEM:
            source, index = node.args
            assert isinstance(source, fx.Node)
            assert isinstance(index, int)
            return Slot(source, index)
        return Slot(self._same.get(node, node))

    def read_by(self, step: Step) -> list[Slot]:
        """Return every tensor that a step reads."""
        found: list[Slot] = []
        fx.map_arg(tuple(step.arguments.values()), lambda node: found.append(self.slot(node)))
        return [slot for slot in found if slot in self.values]

    def written_by(self, step: Step) -> list[Slot]:
        """Return every tensor that a step yields."""
        found, index = [], 0
        while (slot := Slot(step.node, index)) in self.values:
            found.append(slot)
            index += 1
        return found


def record(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Program:
    """Run a model on a batch and return its program; the model must be in eval mode.

    Raises:
        WiringError: the model's Python cannot be followed, with the module and the reason.
    """
    with tracked(model) as path:
        try:
            exported = _exported(model, args, kwargs)
        except Exception as error:  # whatever the model's code does, torch may stumble over it
            raise _untraceable(model, path.deepest, error) from error
    return _Recorder(exported, model).run(pytree.tree_leaves((tuple(args), dict(kwargs))))


def _exported(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.export.ExportedProgram:
    with quiet_attention(), torch.no_grad(), _silence():
        exported = torch.export.export(model, tuple(args), dict(kwargs), strict=False)
        # Without decompositions this only makes operations in place into ordinary ones.
        functional: torch.export.ExportedProgram = exported.run_decompositions({})
        return functional


def _untraceable(model: nn.Module, module: str, error: Exception) -> WiringError:
    where = f"in {module!r} " if module else ""
    return WiringError(
        f"{type(model).__name__} cannot be traced: {where}{_first_line(reason(error))}",
        repair="what depends on the values of tensors (if, .item(), loops of data-dependent length) must go, or be "
        "kept out of forward; torch.export.export(model, args, strict=False) shows the whole reason",
    )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep back what torch prints and logs while it exports, whole graphs among it; the error that follows says it."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def quiet_attention() -> Iterator[None]:
    """Keep torch's attention modules from their fused kernels, which hide what they compute."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


class Path:
    """Remembers the innermost module whose forward was entered last and not left."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._stack: list[str] = []

    @property
    def deepest(self) -> str:
        """The module that is running, or was when an error ended it."""
        return self._stack[-1] if self._stack else ""

    def enter(self, module: nn.Module, args: Any) -> None:
        """Note that a module is called."""
        self._stack.append(self._names.get(id(module), type(module).__name__))

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """Note that it has returned."""
        if self._stack:
            self._stack.pop()


@contextlib.contextmanager
def tracked(model: nn.Module) -> Iterator[Path]:
    """Note in which module of a model a block is."""
    path = Path({id(module): name for name, module in model.named_modules()})
    handles = []
    for module in model.modules():
        handles += [module.register_forward_pre_hook(path.enter), module.register_forward_hook(path.leave)]
    try:
        yield path
    finally:
        for handle in handles:
            handle.remove()


class _Recorder(fx.Interpreter):
    """Runs the exported graph on the batch and keeps what every node yields."""

    def __init__(self, exported: torch.export.ExportedProgram, model: nn.Module) -> None:
        super().__init__(exported.graph_module)
        self.nodes = list(exported.graph_module.graph.nodes)
        self.exported = exported
        self.model = model
        self.program = Program()

    def run(self, leaves: Sequence[Any]) -> Program:  # type: ignore[override]
        """Return the program."""
        given = iter(leaves)
        named: dict[str, Tensor] = dict(self.model.named_parameters(remove_duplicate=False))
        named |= dict(self.model.named_buffers(remove_duplicate=False))
        placeholders = {node.name: node for node in self.nodes if node.op == "placeholder"}
        arguments: list[Any] = []
        owners: dict[int, fx.Node] = {}
        for spec in self.exported.graph_signature.input_specs:
            if spec.kind is InputKind.USER_INPUT:
                arguments.append(next(given))
                continue
            assert spec.target is not None
            value = named[spec.target] if spec.target in named else self.exported.constants[spec.target]
            arguments.append(value)
            node = placeholders[spec.arg.name]
            first = owners.setdefault(id(value), node)
            self.program._same[node] = first
            kinds = {InputKind.PARAMETER: self.program.parameters, InputKind.BUFFER: self.program.buffers}
            if spec.kind in kinds and spec.target in named:
                same = [name for name, each in named.items() if each is value]
                kinds[spec.kind][Slot(first)] = same
        with torch.no_grad():
            super().run(*arguments, enable_io_processing=False)
        fixed = {*self.program.parameters, *self.program.buffers, *map(Slot, owners.values())}
        self.program.inputs = [Slot(node) for node in placeholders.values() if Slot(self._first(node)) not in fixed]
        self._note_outputs()
        return self.program

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and note what it yields."""
        result = super().run_node(n)
        if n.op != "output" and _name(n.target) != _GETITEM:
            for index, each in enumerate(result if isinstance(result, (list, tuple)) else [result]):
                if isinstance(each, Tensor):
                    self.program.values[Slot(n, index)] = each.detach()
        # Operations without a result only assert something.
        if n.op == "call_function" and Slot(n) in self.program.values:
            self.program.steps.append(Step(n, _name(n.target), n.target, _by_name(n), _owner(n)))
        return result

    def _first(self, node: fx.Node) -> fx.Node:
        return self.program._same.get(node, node)

    def _note_outputs(self) -> None:
        by_name = {node.name: node for node in self.nodes}
        for spec in self.exported.graph_signature.output_specs:
            # What a model writes into its buffers must stay as much as what it returns.
            node = by_name.get(getattr(spec.arg, "name", ""))
            if node is not None and self.program.slot(node) in self.program.values:
                self.program.outputs.append(self.program.slot(node))


def _name(target: Any) -> str:
    """Return an operation's name without namespace and overload."""
    packet = getattr(target, "overloadpacket", None)
    return packet.__name__ if packet is not None else getattr(target, "__name__", str(target))


def _by_name(node: fx.Node) -> dict[str, Any]:
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {**{str(index): each for index, each in enumerate(node.args)}, **node.kwargs}
    values = dict(zip((each.name for each in schema.arguments), node.args, strict=False)) | node.kwargs
    return {each.name: values.get(each.name, each.default_value) for each in schema.arguments}


def _owner(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    # The second call of a module is marked by a number.
    return re.sub(r"@\d+", "", str(path).removeprefix("L['self']").lstrip("."))


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else text
