"""A plugin file of odd components: what strangers write, and what goes wrong in it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

import kdcore
from kdcore.contracts import Extracted

BOTH = [kdcore.Input("student", default="student"), kdcore.Input("teacher", default="teacher")]


class Fault(Exception):
    """An exception that only this file knows."""


FAULTS = {
    "key": KeyError("hidden"),
    "attribute": AttributeError("'Tensor' object has no attribute 'hidden_states'"),
    "assertion": AssertionError(),
    "division": ZeroDivisionError("division by zero"),
    "own": Fault("of its own kind"),
    "memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 TiB. GPU 0 has a capacity of less."),
    "device": RuntimeError("CUDA error: device-side assert triggered"),
}


def fail(how: str, moment: str) -> None:
    """Fail if `how` is `<moment>/<fault>`."""
    when, _, fault = how.partition("/")
    if when == moment:
        raise FAULTS[fault]


class Net(nn.Module):
    """A linear classifier; `how` chooses what it returns, or how it fails."""

    def __init__(self, how: str = "logits", classes: int = 10) -> None:
        super().__init__()
        fail(how, "built")
        self.fc = nn.Linear(64, classes)
        self.norm = nn.BatchNorm1d(classes)
        self.relu = nn.ReLU()
        self.idle = nn.Linear(2, 2)
        self.how = how

    def forward(self, x: Tensor) -> Any:
        fail(self.how, "called")
        logits = self.fc(x.flatten(1))
        returned: dict[str, Any] = {
            "object": SimpleNamespace(scores=logits),
            "output": SimpleNamespace(logits=logits),
            "dict": {"scores": logits, "sizes": None},
            "nothing": None,
            "nan": logits * float("nan"),
            "one row": logits[:1],
            "twice": self.relu(self.relu(logits)) if self.how == "twice" else None,
            "norm": self.norm(logits) if self.how == "norm" else None,
        }
        return returned.get(self.how, logits)


class TwoInputs(nn.Module):
    """A model that needs a mask besides the image."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, input: Tensor, mask: Tensor) -> Tensor:
        return self.fc(input.flatten(1) * mask.unsqueeze(-1))


class Loss(nn.Module):
    """A squared distance; `how` chooses what it returns instead, or where and how it fails."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        fail(how, "built")
        self.how = how
        self.step = 0

    def setup(self, facts: Any) -> None:
        fail(self.how, "set up")

    def progress(self, step: int, total_steps: int, epoch: int) -> None:
        self.step = step

    def forward(self, student: Tensor, teacher: Tensor) -> Any:
        fail(self.how, "called")
        if self.step:
            fail(self.how, "middle")
        if len(student) < 16:
            fail(self.how, "late")
        distance = (student - teacher.detach()).square()
        returned = {
            "vector": distance.mean(1),
            "nothing": None,
            "number": float(distance.detach().mean()),
            "dict": {"loss": distance.mean()},
            "count of none": (distance.sum(), None),
            "vector and count": (distance.sum(1), 16),
            "integer": distance.detach().mean().long(),
            "complex": distance.mean().to(torch.complex64),
            "nan": distance.mean() * float("nan"),
        }
        return returned.get(self.how, distance.mean())


class Adapter(nn.Module):
    """An adapter that fails in `setup` or in its forward, or returns nothing."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.how = how

    def setup(self, facts: Any) -> None:
        fail(self.how, "set up")

    def forward(self, x: Tensor) -> Any:
        fail(self.how, "called")
        return None if self.how == "nothing" else x * self.scale


class Balancer(nn.Module):
    """A balancer that fails, or returns no scalar."""

    def __init__(self, terms: dict[str, float | None], how: str = "") -> None:
        super().__init__()
        fail(how, "built")
        self.how = how

    def forward(self, terms: dict[str, Tensor]) -> Any:
        fail(self.how, "called")
        return torch.stack(list(terms.values())) if self.how == "vector" else sum(terms.values())


class Wrapper(nn.Module):
    """A wrapper that fails in its forward."""

    def __init__(self, make_loss: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.loss = make_loss()

    def forward(self, **inputs: Any) -> Any:
        raise FAULTS["key"]


def extractor(how: str) -> Callable[[Any, Any], Any]:
    """Make an extractor that fails, or returns something else than Extracted."""
    fail(how, "built")

    def extract(output: Any, batch: Any) -> Any:
        fail(how, "called")
        return {"tensor": output, "nothing": None}.get(how, Extracted(output))

    return extract


class Data:
    """Forty images of 8 x 8; `how` chooses what is wrong with all of them, or only with the 36th."""

    random = False
    late = 35

    def __init__(self, how: str = "") -> None:
        fail(how, "built")
        self.how = how
        if how == "targets":
            self.targets = torch.arange(40) % 12

    def __len__(self) -> int:
        if self.how == "no length":
            raise OSError("the index file is missing")
        return 0 if self.how == "empty" else 40

    def __getitem__(self, index: int) -> Any:
        image, label = torch.full((1, 8, 8), index / 40), torch.tensor(index % 10)
        wrong: dict[str, Any] = {
            "tuple": (image, label),
            "three": [image, label, index],
            "other names": {"image": image, "label": label},
            "float labels": {"input": image, "target": label.float()},
            "words": {"input": image, "target": "seven"},
            "doubles": {"input": image.double(), "target": label},
            "colours": {"input": image.expand(3, 8, 8), "target": label},
            "objects": {"input": image, "target": label, "box": object()},
            "nan": {"input": image * float("nan"), "target": label},
        }
        if self.how in wrong:
            return wrong[self.how]
        if index == self.late:
            return self._late(image, label)
        return {"input": image, "target": label, "mask": torch.ones(())}

    def _late(self, image: Tensor, label: Tensor) -> Any:
        if self.how == "late file":
            raise FileNotFoundError("image_35.png")
        if self.how == "late kill":
            os.kill(os.getpid(), signal.SIGKILL)
        late: dict[str, Any] = {
            "late label": {"input": image, "target": torch.tensor(11), "mask": torch.ones(())},
            "late unknown": {"input": image, "target": torch.tensor(-1), "mask": torch.ones(())},
            "late key": {"input": image},
            "late shape": {"input": torch.zeros(1, 9, 9), "target": label, "mask": torch.ones(())},
            "late nothing": None,
        }
        return late.get(self.how, {"input": image, "target": label, "mask": torch.ones(())})


class Collated(Data):
    """Images with a collate of their own that goes wrong."""

    def collate(self, samples: list[Any]) -> Any:
        fail(self.how, "collated")
        return (len(samples), len(samples))


class Stream(IterableDataset[Any]):
    """A stream of samples, which has no length."""

    def __iter__(self) -> Any:
        return iter(())


def lookup() -> Callable[[Tensor], Tensor]:
    """Make something that is no module."""
    return lambda x: x


for name, model in (("net", Net), ("two_inputs", TwoInputs), ("lookup", lookup)):
    kdcore.register("model", name, model)
for name, dataset in (("images", Data), ("collated", Collated), ("stream", Stream)):
    kdcore.register("dataset", name, dataset)
kdcore.register("loss", "odd", Loss)
kdcore.register("loss", "no_module", lambda: len, schema={"type": "object"}, inputs=BOTH)
kdcore.register("adapter", "odd", Adapter)
kdcore.register("balancer", "odd", Balancer)
kdcore.register("wrapper", "odd", Wrapper)
kdcore.register("output_extractor", "odd", extractor)
