"""One term of the objective: a loss in its wrappers, bound to readers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdcore.component import Input, Role
from kdcore.config.config import Part, TermConfig
from kdcore.contracts import Facts, TensorFacts, flag_of, method_of
from kdcore.errors import AddressError, KdcoreError, WiringError
from kdcore.pipeline.diagnosis import MORE_SAMPLES, describe, of_device, reason
from kdcore.pipeline.node import requires_grad
from kdcore.pipeline.readers import Batch, Reader
from kdcore.shapes import FewSamplesError

_LOW_PRECISION = (torch.float16, torch.bfloat16)
_MISFITS = (ValueError, TypeError, RuntimeError, IndexError)
# A ValueError is written for users: where it is about numbers, such as labels, no other address repairs it.
_ABOUT_SHAPES = re.compile(r"\b(shape|sizes?|dimensions?|dtype|channels|rows|batch|needs?|bind)\b")
_LOOK = "look for weights and samples that are not finite"


class TermFactory:
    """Makes the loss of a term, or a wrapper around it; what a wrapper receives as `make_loss`."""

    def __init__(self, part: Part, inner: TermFactory | None = None) -> None:
        self.part = part
        self.inner = inner

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The inputs of what it makes: its own and those of the loss within."""
        own = self.part.registered.component.inputs
        names = {each.name for each in own}
        within = self.inner.inputs if self.inner else ()
        return (*(each for each in within if each.name not in names), *own)

    def __call__(self) -> nn.Module:
        """Make a fresh loss."""
        made = self.part.build(make_loss=self.inner) if self.inner else self.part.build()
        if not isinstance(made, nn.Module):
            raise WiringError(
                f"the factory of {self.part.registered} returned a {type(made).__name__}, not an nn.Module",
                place=self.part.place,
            )
        return made


def make_term_loss(config: TermConfig) -> nn.Module:
    """Build a term's loss with its wrappers, outermost first."""
    factory = TermFactory(config.loss)
    for wrapper in reversed(config.wrappers):
        factory = TermFactory(wrapper, factory)
    try:
        return factory()
    except KdcoreError as error:
        raise error.at(config.place) from error
    except Exception as error:  # a factory may fail in any way; the cause is chained and named
        raise WiringError(f"term {config.name!r} could not be built: {reason(error)}", place=config.place) from error


class Value(NamedTuple):
    """A term's value: the mean that is logged, and the sum and count it came from, if it is over positions."""

    mean: Tensor
    total: Tensor | None = None
    positions: Tensor | float | None = None


class Term:
    """A live term; its loss module is registered by the Objective."""

    def __init__(
        self, config: TermConfig, loss: nn.Module, readers: Mapping[str, Reader], device: torch.device
    ) -> None:
        self.config = config
        self.device = device.type
        self.name = config.name
        self.loss = loss
        self.readers = dict(readers)
        self._count = method_of(loss, "count")
        from_batch = {name for name, bound in config.inputs.items() if not isinstance(bound, list) and bound.is_batch}
        self._counted = {name: self.readers[name] for name in from_batch & _keywords(self._count, self.readers)}

    def compute(self, batch: Batch) -> Value:
        """Compute the term, in float32 where autocast is on."""
        inputs = self.read(batch)
        try:
            return self.call(inputs)
        except Exception as error:  # a loss may fail in any way; the cause is chained and named
            raise self._failed(inputs, error) from error

    @property
    def counts(self) -> bool:
        """Whether the loss can tell its number of positions before any forward."""
        return self._count is not None

    @property
    def title(self) -> str:
        """The term with who offers its loss, for messages."""
        return f"term {self.name!r} ({self.config.loss.registered})"

    @property
    def roles(self) -> dict[str, Role]:
        """The roles of the inputs that the loss and its wrappers declare."""
        parts = (self.config.loss, *self.config.wrappers)
        return {each.name: each.role for part in parts for each in part.registered.component.inputs}

    def count(self, batch: Batch) -> Tensor | float | None:
        """Return the number of positions in `batch` before any forward, if the loss can tell."""
        if self._count is None:
            return None
        inputs = {name: read(batch) for name, read in self._counted.items()}
        try:
            return self._count(**inputs)  # type: ignore[no-any-return]
        except Exception as error:  # a loss may fail in any way; the cause is chained and named
            raise self._failed(inputs, error) from error

    def readable(self, batch: Batch) -> bool:
        """Whether the term can be computed in evaluation: its inputs exist there, and the loss allows it."""
        # A wrapper says nothing of this for the loss within, which is a submodule of it.
        if any(self._flag(module, "training_only") for module in self.loss.modules()):
            return False
        try:
            self.read(batch)
        except AddressError:
            return False
        return True

    def facts(self, batch: Batch, data: Facts) -> Facts:
        """Return the facts for this term's setup, after a pass of everything that feeds it."""
        inputs = self.read(batch)
        addresses = {name: _written(bound) for name, bound in self.config.inputs.items()}
        return replace(described(inputs, data), addresses=addresses)

    def check(self, batch: Batch, value: Value, trained: str) -> None:
        """Raise WiringError if the term's first value is not finite, or nothing it looks at can learn."""
        self._flag(self.loss, "accepts_low_precision")
        inputs = self.read(batch)
        fed = [*inputs.values(), self.loss]
        if self.config.weight != 0 and not requires_grad(fed):
            raise WiringError(
                f"term {self.name!r} looks at nothing that {trained}: {self._bound(inputs)}",
                place=self.config.place,
                repair="bind an input to what is trained, train what it looks at, or write enabled: false",
            )
        if not bool(value.mean.detach().isfinite().all()):
            raise WiringError(
                f"{self.title} is {float(value.mean.detach())} on the first "
                f"batch, with {self._bound(inputs)}{_not_finite(inputs)}",
                place=self.config.place,
                repair=f"{_LOOK}, and for params that divide by zero",
            )

    def read(self, batch: Batch) -> dict[str, Any]:
        """Return the term's inputs, after a pass of everything that feeds it."""
        try:
            return {name: read(batch) for name, read in self.readers.items()}
        except KdcoreError as error:
            raise error.at(self.config.place) from None

    def _flag(self, loss: nn.Module, name: str) -> bool:
        try:
            return flag_of(loss, name)
        except WiringError as error:
            raise error.at(self.config.place) from None

    def _bound(self, inputs: Mapping[str, Any]) -> str:
        return ", ".join(
            f"{name} = {_written(self.config.inputs[name])} {describe(value)}" for name, value in inputs.items()
        )

    def call(self, inputs: Mapping[str, Any]) -> Value:
        """Call the loss on given inputs, in float32 where autocast is on."""
        # A loss that sees to the precision itself is spared a copy of, say, 128k-class logits.
        if not torch.is_autocast_enabled(self.device) or getattr(self.loss, "accepts_low_precision", False) is True:
            return _as_value(self.loss(**inputs))
        with torch.autocast(self.device, enabled=False):
            return _as_value(self.loss(**{name: _full_precision(value) for name, value in inputs.items()}))

    def _failed(self, inputs: Mapping[str, Any], error: Exception) -> KdcoreError:
        if isinstance(error, KdcoreError):
            return error.at(self.config.place)
        if of_device(error):
            raise error
        not_finite = _not_finite(inputs)
        return WiringError(
            f"{self.title} failed with {self._bound(inputs)}: {reason(error)}{not_finite}",
            place=self.config.place,
            repair=_LOOK if not_finite else _repair(error),
        )


class _ReturnError(ValueError):
    """A loss returned what no loss may return."""


def _repair(error: Exception) -> str:
    if isinstance(error, _ReturnError):
        return "mend the loss, for example by .mean() over the batch"
    if isinstance(error, FewSamplesError):
        return MORE_SAMPLES
    if isinstance(error, ValueError) and str(error) and not _ABOUT_SHAPES.search(str(error)):
        return ""
    if isinstance(error, _MISFITS):
        return "bind other addresses, or bring the tensors together with an adapter"
    return "the loss wants something else than what is bound, or is wrong itself: kd --traceback shows where it failed"


def _keywords(count: Callable[..., Any] | None, names: Iterable[str]) -> set[str]:
    """Return which of `names` a loss's `count` takes."""
    if count is None:
        return set()
    parameters = inspect.signature(count).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return set(names) if takes_all else set(names) & parameters.keys()


def described(inputs: Mapping[str, Any], data: Facts) -> Facts:
    """Return `data` with the shapes of `inputs`."""
    return replace(data, inputs={name: TensorFacts.of(value) for name, value in inputs.items()})


def nonzero(count: Tensor | float) -> Tensor | float:
    """Return a divisor: the count, or 1 where it is 0."""
    return count.where(count != 0, 1) if isinstance(count, Tensor) else count or 1


def _as_value(result: Any) -> Value:
    if isinstance(result, Tensor) and result.dim() == 0 and result.is_floating_point():
        return Value(result)
    if isinstance(result, tuple) and len(result) == 2:
        total, count = result
        number = isinstance(count, (int, float)) or (isinstance(count, Tensor) and count.dim() == 0)
        if not isinstance(total, Tensor) or total.dim() > 0 or not number:
            raise _ReturnError(f"a loss over positions returns (sum, count), two scalars, found {describe(result)}")
        return Value(total / nonzero(count), total, count)
    if not isinstance(result, Tensor) or not result.is_floating_point():
        raise _ReturnError(f"a loss returns a scalar tensor or (sum, count), found {describe(result)}")
    if result.dim() > 0 and result.numel() == 1:
        result = result.reshape(())
    if result.dim() > 0:
        raise _ReturnError(f"a loss returns a scalar, found shape {tuple(result.shape)}")
    return Value(result)


def _not_finite(inputs: Mapping[str, Any]) -> str:
    wrong = [name for name, each in inputs.items() if not _finite(each)]
    return f"; {' and '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} not finite already" if wrong else ""


def _finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_finite, value))
    return not isinstance(value, Tensor) or bool(value.detach().isfinite().all())


def _full_precision(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in _LOW_PRECISION else value
    if isinstance(value, Mapping):
        return {key: _full_precision(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_full_precision(item) for item in value]
    return value


def _written(binding: Any) -> str:
    return "[" + ", ".join(map(str, binding)) + "]" if isinstance(binding, list) else str(binding)
