"""Frozen modules: eval mode and no parameter that requires gradient, kept so whatever calls train()."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from kdcore.errors import Place, WiringError, suggestion


def freeze(module: nn.Module) -> None:
    """Freeze a whole module; scripted ones too, which have no requires_grad_."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    module.eval()


@dataclass
class _Holder:
    """A stage or Objective that holds a parameter, and whether that required gradient before."""

    token: object
    found: bool


# Who holds each parameter, the latest last; Objectives may share a teacher, and end in any order.
_HOLDERS: Any = WeakTensorKeyDictionary()


class Flags:
    """Remembers which parameters required gradient before a stage froze some, and restores that.

    A parameter that others hold too stays as the latest of them wants it: what it was before goes over to
    the one that came next, so that the last to let go leaves it as the first has found it.
    """

    def __init__(self) -> None:
        self._token = object()
        self._by_name: dict[str, dict[str, bool]] = {}
        self._parameters: list[nn.Parameter] = []

    def keep(self, name: str, module: nn.Module) -> None:
        """Remember the parameters of one model or adapter."""
        self._by_name[name] = {key: each.requires_grad for key, each in module.named_parameters()}
        for each in module.parameters():
            _HOLDERS.setdefault(each, []).append(_Holder(self._token, each.requires_grad))
            self._parameters.append(each)

    def restore(self) -> None:
        """Let every parameter require gradient as it did, once nobody else holds it."""
        while self._parameters:
            parameter = self._parameters.pop()
            holders: list[_Holder] = _HOLDERS[parameter]
            number = max(number for number, each in enumerate(holders) if each.token is self._token)
            ended = holders.pop(number)
            if number < len(holders):
                holders[number].found = ended.found
            else:
                parameter.requires_grad_(ended.found)

    def apply(self, name: str, copied: nn.Module) -> None:
        """Let the parameters of a copy of `name` require gradient as the original's did."""
        for key, parameter in copied.named_parameters():
            parameter.requires_grad_(self._by_name[name][key])


def keep_frozen(modules: Iterable[nn.Module]) -> None:
    """Put modules back into eval mode if somebody called train() on them."""
    for module in modules:
        if module.training:
            module.training = False


def freeze_parts(
    trained: dict[str, nn.Module], patterns: Iterable[str], place: Place, *, names: frozenset[str]
) -> list[nn.Module]:
    """Freeze what the glob `patterns` match by full name (`student.layer1`) and return the frozen modules.

    A pattern that matches a module freezes all of it, its batch statistics too; one that matches a
    parameter freezes that parameter. A pattern that matches nothing raises WiringError.
    """
    modules = {
        f"{name}.{path}" if path else name: each
        for name, root in trained.items()
        for path, each in root.named_modules(remove_duplicate=False)
    }
    parameters = {
        f"{name}.{path}": each
        for name, root in trained.items()
        for path, each in root.named_parameters(remove_duplicate=False)
    }
    frozen: list[nn.Module] = []
    for pattern in patterns:
        matched = fnmatch.filter(modules, pattern)
        for name in matched:
            freeze(modules[name])
            frozen.extend(modules[name].modules())
        singles = fnmatch.filter(parameters, pattern)
        for name in singles:
            parameters[name].requires_grad_(False)
        if not matched and not singles:
            repair = suggestion(pattern, [*modules, *parameters], noun="modules")
            head = pattern.split(".")[0]
            if head not in trained and head in names:
                repair = f"{head!r} is not trained in this stage, so all of it is frozen already"
            raise WiringError(f"freeze: {pattern!r} matches nothing that this stage trains", place=place, repair=repair)
    return list(dict.fromkeys(frozen))
