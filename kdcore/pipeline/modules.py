"""Modules by name, as one module."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


class Modules(nn.Module):
    """Named submodules; unlike nn.ModuleDict any name will do, `type` and `values` too."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, module in modules.items():
            self._modules[name] = module

    def __getitem__(self, name: str) -> nn.Module:
        module = self._modules[name]
        assert module is not None
        return module

    def __contains__(self, name: object) -> bool:
        return name in self._modules
