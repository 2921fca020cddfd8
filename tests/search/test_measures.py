"""Parameters, bytes, FLOPs and latency of models whose numbers are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import kdcore
from kdcore.errors import RunError
from kdcore.search.measures import count_bytes, count_flops, measure

CONFIG = """\
version: 1
data:
  train: {type: digits, params: {split: train}, batch_size: 16}
models:
  teacher: {type: digits_cnn, params: {width: 4}, weights: as_built}
  student: {type: digits_mlp, params: {width: 8, depth: 1}}
stages:
  - name: distill
    epochs: 1
    train: [student]
    losses: {kd: kd}
    optimizer: {type: SGD, params: {lr: 0.1}}
"""

CPU = torch.device("cpu")


def config_of(*overrides: str) -> Any:
    return kdcore.load_config(CONFIG, overrides=overrides)


def test_a_perceptron_costs_what_its_layers_say() -> None:
    found = measure(config_of(), "student", CPU, {"flops", "latency_ms"})
    parameters = 64 * 8 + 8 + 8 * 10 + 10
    assert found["parameters"] == parameters
    assert found["bytes"] == 4 * parameters
    # One sample, though a batch has 16; biases and ReLU are not counted.
    assert found["flops"] == 2 * (64 * 8 + 8 * 10)
    assert found["latency_ms"] > 0


def test_convolutions_are_counted_where_they_are_applied() -> None:
    found = measure(config_of(), "teacher", CPU, {"flops"})
    products = 9 * (64 * 1 * 4 + 16 * 4 * 8 + 4 * 8 * 16) + 16 * 10
    assert found["flops"] == 2 * products
    assert "latency_ms" not in found


def test_measuring_needs_no_data_unless_something_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("the data was looked at")

    monkeypatch.setattr("kdcore.search.measures.Datasets", refused)
    assert measure(config_of(), "student", CPU, set()).keys() == {"parameters", "bytes"}


def test_measuring_moves_no_generator() -> None:
    before = torch.get_rng_state()
    measure(config_of(), "student", CPU, {"flops"})
    assert torch.equal(torch.get_rng_state(), before)


def test_tied_weights_count_once_and_saved_buffers_count() -> None:
    tied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    tied[1].weight = tied[0].weight
    assert count_bytes(tied) == 4 * 9
    # Weight, bias, running mean and variance of 5 channels, and an int64 counter.
    assert count_bytes(nn.BatchNorm1d(5)) == 4 * 4 * 5 + 8
    assert count_bytes(nn.Linear(2, 2).to(torch.float16)) == 2 * 6


def test_a_model_that_another_feeds_is_refused() -> None:
    config = config_of("models.student.inputs=[teacher:pool]")
    with pytest.raises(RunError, match="the FLOPs of 'student' cannot be counted: it is fed by another model"):
        measure(config, "student", CPU, {"flops"})
    with pytest.raises(RunError, match="the latency of 'student' cannot be measured: it is fed by another model"):
        measure(config, "student", CPU, {"latency_ms"})


def test_counting_leaves_the_mode_as_it_was() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Linear(64, 10)).train()
    model[0].eval()
    count_flops(model, config_of().models["student"], {"input": torch.zeros(4, 64)})
    assert (model.training, model[0].training, model[1].training) == (True, False, True)
