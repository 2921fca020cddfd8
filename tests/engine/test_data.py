"""Loaders: order and randomness are functions of seed, epoch and index."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import dataloader

from kdcore.config.config import DataConfig, Part
from kdcore.engine.data import Datasets
from kdcore.engine.loader import Loader
from kdcore.engine.sampler import EpochSampler
from kdcore.errors import DataError, Place
from kdcore.plugins import Registry


class Numbers:
    """Yields its index and draws from all three generators."""

    num_classes = 2

    def __init__(self, length: int = 10, bad: str = "") -> None:
        self.length = length
        self.bad = bad
        self.targets = torch.tensor([0] * (length - 1) + [1]) if length else torch.zeros(0)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if self.bad == "raise" and index == 3:
            raise OSError("file is gone")
        if self.bad == "tuple":
            return (index, 0)
        noise = torch.tensor([torch.rand(()).item(), random.random(), np.random.rand()])
        size = index + 1 if self.bad == "ragged" else 1
        return {"input": torch.full((size,), float(index)), "noise": noise}


def loader(seed: int = 0, stage: str = "s", **options: Any) -> Loader:
    params = {key: options.pop(key) for key in ("length", "bad") if key in options}
    registered = Registry().register("dataset", "numbers", Numbers)
    settings: dict[str, Any] = {
        "batch_size": 4,
        "sampler": "shuffle",
        "drop_last": False,
        "num_workers": 0,
        "pin_memory": False,
        "prefetch_factor": None,
        "persistent_workers": True,
        "place": Place("data.train", "cfg.yaml", 3, 1),
    }
    part = Part(registered, params, Place())
    config = DataConfig(name="train", part=part, **{**settings, **options})
    return Datasets({"train": config}).loader("train", seed, stage=stage)


def read(made: Loader, epoch: int) -> list[dict[str, torch.Tensor]]:
    return list(made.epoch(epoch))


def test_order_and_noise_depend_on_seed_and_epoch_only() -> None:
    first = read(loader(), 1)
    torch.manual_seed(99)
    other = loader()
    read(other, 0)
    again = read(other, 1)
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one["index"], two["index"])
        assert torch.equal(one["noise"], two["noise"])
    assert not torch.equal(torch.cat([b["index"] for b in first]), torch.cat([b["index"] for b in read(loader(), 2)]))
    assert not torch.equal(first[0]["index"], read(loader(seed=1), 1)[0]["index"])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int) -> None:
    plain, made = loader(), loader(num_workers=workers)
    for epoch in (0, 1):
        for one, two in zip(read(plain, epoch), read(made, epoch), strict=True):
            assert torch.equal(one["index"], two["index"])
            assert torch.equal(one["noise"], two["noise"])


def test_reading_leaves_the_global_generators_alone() -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    read(loader(), 0)
    loader().first_batch()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])


def test_the_first_batch_is_that_of_epoch_0() -> None:
    made = loader()
    assert torch.equal(made.first_batch()["index"], read(made, 0)[0]["index"])


def test_samplers() -> None:
    assert list(EpochSampler("sequential", 4, 0)) == [0, 1, 2, 3]
    assert sorted(EpochSampler("shuffle", 50, 0)) == list(range(50))
    assert len(set(EpochSampler("replacement", 50, 0))) < 50
    drawn = list(EpochSampler("balanced", 1000, 0, torch.tensor([0] * 999 + [1])))
    assert 400 < drawn.count(999) < 600
    with pytest.raises(DataError, match="balanced needs a data set with targets"):
        EpochSampler("balanced", 10, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, r"cfg.yaml:3:1: data.train: data 'train' is empty"),
        ({"length": 3, "drop_last": True}, r"3 samples, fewer than batch_size 4(.|\n)*drop_last: false"),
    ],
)
def test_data_without_batches_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        loader(**options)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("raise", r"sample 3 failed: OSError: file is gone"),
        ("tuple", r"is a tuple, not a dict"),
        ("ragged", r"do not make a batch"),
    ],
)
def test_bad_samples_are_named(bad: str, message: str, workers: int) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(loader(bad=bad, num_workers=workers), 0)
    assert "cfg.yaml:3:1" in str(caught.value)


def test_the_signal_of_a_worker_already_found_dead_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come at any moment after the broken pipe, when the run's results are being written."""
    batches = loader(num_workers=1, prefetch_factor=2, length=100).epoch(0)
    next(batches)
    watch = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    assert callable(watch)

    def broken_pipe(self: Any) -> None:
        (worker,) = self._workers
        os.kill(worker.pid, signal.SIGKILL)
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        raise ConnectionResetError("Connection reset by peer")

    monkeypatch.setattr(dataloader._MultiProcessingDataLoaderIter, "_next_data", broken_pipe)
    try:
        with pytest.raises(DataError, match="data 'train' cannot be read: ConnectionResetError: Connection reset"):
            next(batches)
        watch(signal.SIGCHLD, None)
    finally:
        signal.signal(signal.SIGCHLD, watch)


def test_a_worker_leaves_signals_to_others_but_ends_when_it_is_told_to() -> None:
    made = loader(num_workers=1, prefetch_factor=2, length=100, sampler="sequential")
    before = multiprocessing.active_children()
    batches = made.epoch(0)
    found = [next(batches)]
    (worker,) = (each for each in multiprocessing.active_children() if each not in before)
    assert worker.pid is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    found += batches
    assert torch.cat([batch["index"] for batch in found]).tolist() == list(range(100))
    again = made.epoch(1)
    next(again)
    worker.terminate()
    assert worker.exitcode == -signal.SIGKILL
    # torch, which raises when a worker dies, is asked whether one has.
    signal.raise_signal(signal.SIGCHLD)


def test_rows_per_sample_and_collate_belong_to_the_data_set() -> None:
    class Rotated(Numbers):
        rows_per_sample = 4

        def collate(self, samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
            return {"input": torch.cat([s["input"].repeat(4) for s in samples])}

    registered = Registry().register("dataset", "rotated", Rotated, schema={"type": "object"})
    base = loader().config
    config = replace(base, part=Part(registered, {}, Place()))
    made = Datasets({"train": config}).loader("train", 0, stage="s")
    batch = made.first_batch()
    assert made.rows_per_sample == 4
    assert batch["input"].shape == (16,)
    assert batch["index"].shape == (4,)


class Paired(Numbers):
    """Chooses its batches itself: neighbours stay together."""

    def batches(self, batch_size: int, generator: torch.Generator) -> Any:
        pairs = torch.arange(self.length).view(-1, 2)[torch.randperm(self.length // 2, generator=generator)]
        return pairs.view(-1, batch_size).tolist()


def test_a_data_set_may_choose_its_batches() -> None:
    registered = Registry().register("dataset", "paired", Paired)
    config = replace(loader().config, part=Part(registered, {"length": 12}, Place()), sampler="sequential")
    made = Datasets({"train": config}).loader("train", 0, stage="s")
    epochs = [[batch["index"].tolist() for batch in read(made, epoch)] for epoch in (0, 1, 0)]
    assert epochs[0] == epochs[2] != epochs[1]
    assert len(made) == 3
    assert sorted(index for batch in epochs[1] for index in batch) == list(range(12))
    assert all(batch[i] + 1 == batch[i + 1] for batch in epochs[1] for i in (0, 2))
    assert made.first_batch()["index"].tolist() == epochs[0][0]
    with pytest.raises(DataError, match=r"chooses its batches itself(.|\n)*remove shuffle"):
        Datasets({"train": replace(config, sampler="shuffle")}).loader("train", 0, stage="s")
