"""Frozen parts of several processes: those that are equal pass, and a message tells what else they are."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from kdcore.errors import Place, WiringError
from kdcore.pipeline.agreement import check_agreement

from .toys import make_batch, objective, one_stage

KD = "{hint: {type: mse, inputs: {input: student, target: teacher}}}"


class Exchange:
    """Passes texts between threads that stand for processes."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count, timeout=60)
        self.texts = [""] * count
        self.calls = 0

    def of(self, rank: int) -> Callable[[str], list[str]]:
        def gather(text: str) -> list[str]:
            self.texts[rank] = text
            self.barrier.wait()
            found = list(self.texts)
            self.calls += rank == 0
            self.barrier.wait()
            return found

        return gather


def compared(every: Sequence[dict[str, nn.Module]], **options: Any) -> tuple[list[str], int]:
    """Return what each process raises, nothing if all is well, and how often they spoke."""
    exchange = Exchange(len(every))

    def check(rank: int) -> str:
        try:
            check_agreement(every[rank], {"teacher": Place("models.teacher")}, gather=exchange.of(rank), **options)
        except WiringError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(every)) as pool:
        return list(pool.map(check, range(len(every)))), exchange.calls


def net(seed: int, width: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def test_equal_parts_pass_with_one_digest() -> None:
    assert compared([{"teacher": net(1), "proj": net(2)} for _ in range(3)]) == (["", "", ""], 1)


def test_every_process_is_told_which_ones_differ_and_in_what() -> None:
    other = net(1)
    with torch.no_grad():
        other[2].bias[0] += 1e-6
    other[1].running_mean += 1
    said, _ = compared([{"teacher": each, "proj": net(2)} for each in (net(1), other, net(1), other)])
    assert len(set(said)) == 1
    assert said[0] == (
        "models.teacher: 'teacher' is frozen and not the same in every process: processes 1, 3 differ from process 0 "
        "in 2 of 9 tensors (1.running_mean, 2.bias)\n"
        "    each process would distil towards another one: load the same weights in each, seed the generators before "
        "the model is built (torch.manual_seed(0)), or send those of process 0: for tensor in "
        "teacher.state_dict().values(): torch.distributed.broadcast(tensor, 0)"
    )


def test_many_differences_are_counted() -> None:
    said, _ = compared([{"teacher": net(seed)} for seed in range(6)])
    assert "processes 1, 2, 3, ... (5 in all) differ from process 0 in 4 of 9 tensors (0.weight" in said[0]
    said, _ = compared([{"teacher": net(1), "proj": net(each)} for each in (1, 2)], repair="mend {name}")
    assert said[0].startswith("'proj' is frozen and not the same in every process: process 1 differs")
    assert said[0].endswith("(0.weight, 0.bias, 2.weight, ... (4 in all))\n    mend proj")


def test_another_shape_dtype_or_tensor_is_a_difference() -> None:
    for other in (net(1, width=5), net(1).double(), nn.Sequential(*net(1), nn.Linear(2, 2))):
        said, _ = compared([{"teacher": net(1)}, {"teacher": other}])
        assert re.search(r"process 1 differs from process 0 in \d of \d+ tensors", said[0])
    said, _ = compared([{"teacher": net(1)}, {"teacher": net(1), "proj": net(1)}])
    assert said[1].startswith("'proj' is frozen and not the same in every process: process 1 differs")


class Odd(nn.Module):
    """Holds what may differ, or cannot be compared, in processes that are equal."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.register_buffer("seen", torch.tensor(rank), persistent=False)
        self.register_buffer("adjacency", torch.eye(3).to_sparse())
        self.offloaded = nn.Parameter(torch.zeros(rank + 1, device="meta"))
        self.rank = rank

    def get_extra_state(self) -> torch.Tensor:
        return torch.tensor(self.rank)


def test_caches_and_what_is_not_here_are_not_compared() -> None:
    assert compared([{"teacher": Odd(0)}, {"teacher": Odd(1)}]) == (["", ""], 1)


def test_an_objective_compares_its_frozen_models_and_adapters_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    monkeypatch.setattr(
        "kdcore.pipeline.objective.check_agreement", lambda parts, places: found.update(parts=parts, places=places)
    )
    models = {"teacher": net(1), "student": net(2)}
    built = objective(one_stage(KD), models, batch={**make_batch(), "input": torch.randn(4, 3)})
    built.check_agreement()
    assert found["parts"] == {"teacher": models["teacher"]}
    assert found["places"]["teacher"].path == "models.teacher"


def test_one_process_has_nothing_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcore.pipeline.agreement.digest_of", lambda *_: pytest.fail("it was read"))
    check_agreement({"teacher": net(1)}, {})
