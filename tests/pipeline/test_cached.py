"""A cached model's pass: the same values through the same readers, without running the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcore.address import Address
from kdcore.engine.device import batch_to_device
from kdcore.errors import WiringError
from kdcore.pipeline.cached import HOST_INDEX, Cached, checked
from kdcore.pipeline.objective import Objective
from tests.pipeline.toys import DictNet, Net, make_batch, objective, one_stage


class Shelf:
    """A cache in memory."""

    def __init__(self) -> None:
        self.rows: dict[Address, dict[int, Tensor]] = {}
        self.reads = 0

    def read(self, index: Tensor) -> Mapping[Address, Tensor] | None:
        self.reads += 1
        if not self.rows or any(i not in rows for rows in self.rows.values() for i in index.tolist()):
            return None
        return {address: torch.stack([rows[i] for i in index.tolist()]) for address, rows in self.rows.items()}

    def store(self, index: Tensor, values: Mapping[Address, Tensor]) -> Mapping[Address, Tensor]:
        for address, value in values.items():
            rows = self.rows.setdefault(address, {})
            for i, row in zip(index.tolist(), value, strict=True):
                rows.setdefault(i, row)
        found = self.read(index)
        assert found is not None
        return found


def count_calls(model: nn.Module) -> list[None]:
    calls: list[None] = []
    model.register_forward_pre_hook(lambda module, args: calls.append(None))
    return calls


def with_cache(built: Objective, *, training: bool = True) -> Shelf:
    shelf, node_pass = Shelf(), built.node_pass("teacher", training=training)
    assert node_pass is not None
    node_pass.node.cached = Cached(node_pass.node, node_pass.addresses, shelf, 1)
    return shelf


ADDRESSES = {
    "output": ("teacher", Net),
    "module": ("teacher:block2", Net),
    "first call": ("teacher:relu@0", Net),
    "last call but one": ("teacher:relu@-2", Net),
    "input": ("teacher:fc@input", Net),
    "named": ("teacher#hidden#1", DictNet),
    "raw": ("teacher@raw#hidden#0", DictNet),
    "whole raw": ("teacher@raw", Net),
}


@pytest.mark.parametrize(("address", "kind"), ADDRESSES.values(), ids=ADDRESSES)
def test_every_kind_of_address_reads_what_a_pass_would_yield(address: str, kind: type[nn.Module]) -> None:
    teacher, student = kind(), Net()
    mine = "student" if address in ("teacher", "teacher@raw") else "student:block2"
    losses = f"{{a: {{type: mse, inputs: {{input: {mine}, target: '{address}'}}}}}}"
    built = objective(one_stage(losses), {"teacher": teacher, "student": student})
    batch = make_batch()
    plain = built(batch)
    calls = count_calls(teacher)
    shelf = with_cache(built)
    filled = built(batch)
    assert len(calls) == 1
    assert [str(each) for each in shelf.rows] == [address]
    read = built(batch)
    assert len(calls) == 1
    assert torch.equal(plain.total, filled.total)
    assert torch.equal(plain.total, read.total)
    read.total.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_several_addresses_of_one_model_and_an_adapter_on_it() -> None:
    teacher, student = Net(8), Net(4)
    losses = (
        "{kd: {type: mse, inputs: {input: student, target: teacher}}, "
        "hint: {type: mse, inputs: {input: proj, target: 'teacher:block1'}}, "
        "same: {type: mse, inputs: {input: 'student:fc', target: 'teacher:fc'}}}"
    )
    adapters = "adapters: {proj: {type: projector, inputs: {x: 'student:block1'}, like: 'teacher:block1'}}\n"
    built = objective(one_stage(losses, "student, proj", adapters), {"teacher": teacher, "student": student})
    batch = make_batch()
    plain = built.eval()(batch)
    shelf = with_cache(built, training=False)
    calls = count_calls(teacher)
    built(batch)
    read = built(batch)
    assert len(calls) == 1
    assert {str(each) for each in shelf.rows} == {"teacher", "teacher:block1", "teacher:fc"}
    assert all(torch.equal(plain.terms[name], read.terms[name]) for name in plain.terms)


def test_a_batch_with_a_missing_sample_runs_whole_and_keeps_what_was_stored() -> None:
    teacher, student = Net(), Net()
    losses = "{kd: {type: mse, inputs: {input: student, target: teacher}}}"
    built = objective(one_stage(losses), {"teacher": teacher, "student": student})
    batch = make_batch()
    shelf = with_cache(built)
    shelf.rows[Address("teacher")] = {2: torch.full((3,), 7.0)}
    seen: list[tuple[int, ...]] = []
    teacher.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    node_pass = built.node_pass("teacher", training=True)
    assert node_pass is not None
    node_pass.node.run(batch, node_pass.stop)
    value = node_pass.node.reader(Address("teacher"))(batch)
    assert seen == [(6, 5)]
    assert torch.equal(value[2], torch.full((3,), 7.0))
    expected = teacher(batch["input"]).detach()
    assert torch.equal(value[[0, 1, 3, 4, 5]], expected[[0, 1, 3, 4, 5]])


def test_a_batch_on_a_device_is_looked_up_by_its_indices_on_the_host() -> None:
    teacher, student = Net(), Net()
    losses = "{kd: {type: mse, inputs: {input: student, target: teacher}}}"
    built = objective(one_stage(losses), {"teacher": teacher, "student": student})
    with_cache(built)
    batch = make_batch()
    expected = built(batch).total
    # As indices on a GPU do, those on the device "meta" have no values to be read without it.
    moved = {**batch, "index": batch_to_device(batch, torch.device("meta"))["index"], HOST_INDEX: batch["index"]}
    assert batch_to_device(batch, torch.device("meta"))[HOST_INDEX] is batch["index"]
    assert batch_to_device(batch, torch.device("cpu")) is batch
    assert moved["index"].is_meta
    assert torch.equal(built(moved).total, expected)


def test_a_stored_step_lets_go_of_its_values() -> None:
    teacher, student = Net(), Net()
    losses = "{kd: {type: mse, inputs: {input: student, target: teacher}}, h: {type: mse, inputs: {input: 'student:fc@input', target: 'teacher:fc@input'}}}"  # fmt: skip
    built = objective(one_stage(losses), {"teacher": teacher, "student": student})
    with_cache(built)
    built(make_batch())
    built(make_batch())
    node_pass = built.node_pass("teacher", training=True)
    assert node_pass is not None
    assert node_pass.node.extracted is None
    with pytest.raises(Exception, match="never ran"):
        node_pass.node.reader(Address.parse("teacher:fc@input"))(make_batch())


def test_a_module_needs_no_pass_and_so_no_cache() -> None:
    teacher, student = Net(), Net()
    losses = "{m: {type: uses_module, inputs: {input: 'student:fc@input', head: 'teacher:fc@module'}}}"
    built = objective(one_stage(losses), {"teacher": teacher, "student": student})
    assert built.node_pass("teacher", training=True) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(3), r"a:b cannot be cached: it yields float32\[3\], not a tensor with one row for each of the 6"),
        (torch.zeros(()), r"it yields float32\[\]"),
        (torch.zeros(6, 0), "one row for each"),
        ((torch.zeros(6), 1), "address the tensor in it by #key"),
        (None, "it yields NoneType"),
    ],
)
def test_what_has_no_row_per_sample_cannot_be_cached(value: Any, message: str) -> None:
    with pytest.raises(WiringError, match=message):
        checked(value, Address.parse("a:b"), 6)
