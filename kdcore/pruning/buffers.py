"""What a criterion remembers of each weight, as most criteria need it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor


class Buffers(MutableMapping[str, Tensor]):
    """Tensors by the weight's name, kept in one dtype.

    Arguments:
        dtype: of what is made by `like`; None is that of the weight.
    """

    def __init__(self, dtype: torch.dtype | None = torch.float32) -> None:
        self.dtype = dtype
        self._tensors: dict[str, Tensor] = {}

    def zeros(self, name: str, shape: Any, weight: Tensor) -> Tensor:
        """Return the tensor called `name`, made of zeros at its first use, and always where `weight` is."""
        found = self._tensors.get(name)
        if found is None:
            found = torch.zeros(shape, dtype=self.dtype or weight.dtype, device=weight.device)
            self._tensors[name] = found
        elif found.device != weight.device:
            found = self._tensors[name] = found.to(weight.device)
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return dict(self._tensors)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace every tensor by a copy of those given."""
        self._tensors = {name: tensor.clone() for name, tensor in state.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        self._tensors[name] = value.to(self.dtype) if self.dtype is not None else value

    def __delitem__(self, name: str) -> None:
        del self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
