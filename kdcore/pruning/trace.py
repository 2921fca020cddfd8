"""What one run with example inputs shows: which layer makes the output, and where a layer's output goes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.errors import Place, WiringError
from kdcore.pipeline.diagnosis import reason
from kdcore.pipeline.objective import Objective
from kdcore.pipeline.probe import undone

# An output may be scaled, reshaped or passed through log_softmax; no more than so many operations are looked through.
_OPERATIONS = 20


@dataclass
class Trace:
    """What was seen.

    Arguments:
        heads: names of the layers whose output is the model's, but for operations on it alone.
        norms: by a layer's name the normalisations that its output goes straight into.
        ran: names of the layers in the order in which they first ran.
    """

    heads: list[str] = field(default_factory=list)
    norms: dict[str, list[str]] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)


def trace(
    model: nn.Module, layers: Mapping[str, nn.Module], caller: nn.Module, example_inputs: Any, place: Place
) -> Trace:
    """Run `caller` (the model, or an Objective around it) once, with no effect that lasts.

    Arguments:
        model: whose layers are watched.
        layers: by name.
        caller: what is called with the example inputs.
        example_inputs: a tensor, a tuple of arguments, a mapping of keyword arguments; for an Objective a batch.
        place: for errors.
    """
    watch = _Watch(model, layers)
    with undone([caller], seed=0), watch.watching():
        if not isinstance(caller, Objective):
            caller.eval()
        try:
            with torch.enable_grad():
                _call(caller, example_inputs)
        except Exception as error:  # a model may fail in any way; the cause is chained and named
            raise WiringError(
                f"the model failed on the example inputs: {reason(error)}",
                place=place,
                repair="example_inputs is a tensor, a tuple of arguments or a mapping of keyword arguments",
            ) from error
        return watch.seen()


class _Watch:
    def __init__(self, model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
        self.model = model
        self.names = {id(module): name for name, module in layers.items()}
        self.trace = Trace()
        self.made: dict[Any, str] = {}
        self.outputs: dict[int, tuple[Tensor, str]] = {}
        self.result: Any = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        handles = [self.model.register_forward_hook(self._ended)]
        for name, module in self.model.named_modules():
            if id(module) in self.names:
                handles.append(module.register_forward_hook(self._ran))
            elif is_norm(module):
                handles.append(module.register_forward_pre_hook(self._normalising(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def seen(self) -> Trace:
        output = _main_output(self.result)
        if output is not None:
            name = self._maker(output)
            if name is not None:
                self.trace.heads.append(name)
        return self.trace

    def _ran(self, module: nn.Module, inputs: Any, output: Any) -> None:
        name = self.names[id(module)]
        if name not in self.trace.ran:
            self.trace.ran.append(name)
        if isinstance(output, Tensor):
            self.outputs[id(output)] = output, name
            if output.grad_fn is not None:
                self.made[output.grad_fn] = name

    def _normalising(self, norm: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            found = self.outputs.get(id(inputs[0])) if inputs else None
            if found is not None and norm not in self.trace.norms.setdefault(found[1], []):
                self.trace.norms[found[1]].append(norm)

        return hook

    def _ended(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.result = output

    def _maker(self, output: Tensor) -> str | None:
        """Return the layer that made the output, through operations that have no other input."""
        found = self.outputs.get(id(output))
        if found is not None:
            return found[1]
        node: Any = output.grad_fn
        for _ in range(_OPERATIONS):
            if node is None:
                return None
            if node in self.made:
                return self.made[node]
            before = [each for each, _ in node.next_functions if each is not None]
            node = before[0] if len(before) == 1 else None
        return None


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises, going by its class's name as other packages' have it too."""
    return type(module).__name__.rstrip("123d").endswith("Norm")


def _call(caller: nn.Module, example_inputs: Any) -> Any:
    if isinstance(caller, Objective) or isinstance(example_inputs, Tensor):
        return caller(example_inputs)
    if isinstance(example_inputs, Mapping):
        return caller(**example_inputs)
    return caller(*example_inputs)


def _main_output(result: Any) -> Tensor | None:
    """Return the logits of a model's output: itself, the entry `logits` or the first tensor."""
    if isinstance(result, Tensor):
        return result
    if isinstance(result, Mapping):
        logits = result.get("logits")
        return logits if isinstance(logits, Tensor) else _main_output(list(result.values()))
    if isinstance(result, (list, tuple)):
        return next((each for each in result if isinstance(each, Tensor)), None)
    return None
