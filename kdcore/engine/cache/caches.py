"""The caches of one stage: which model reads which, on which data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from kdcore.address import Address
from kdcore.config.config import CacheConfig, Config, StageConfig
from kdcore.engine.cache.codec import Codec
from kdcore.engine.cache.fingerprint import Fingerprint, data_parts, model_parts, weights_digest
from kdcore.engine.cache.folder import open_folder
from kdcore.engine.cache.steadiness import steady_entries
from kdcore.engine.cache.store import Store, top_k_of
from kdcore.engine.device import autocast, to_device
from kdcore.engine.loader import Loader
from kdcore.engine.measure import show_bytes
from kdcore.engine.samples import Sample
from kdcore.errors import KdcoreError, WiringError
from kdcore.pipeline.assembly import Assembly
from kdcore.pipeline.cached import Cached, checked
from kdcore.pipeline.node import Node
from kdcore.pipeline.objective import Objective
from kdcore.pipeline.plan import NodePass


class StageCaches:
    """The caches of the frozen models of a stage; `loaders` are those of its data, by role.

    A cache is opened when its data is first used, because only then it is sure that the weights
    are what they stay.
    """

    def __init__(
        self,
        config: Config,
        stage: StageConfig,
        assembly: Assembly,
        loaders: Mapping[str, Loader],
        objective: Objective,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.config = config
        self.stage = stage
        self.assembly = assembly
        self.loaders = loaders
        self.objective = objective
        self.tell = tell
        self.models = [name for name, model in config.models.items() if model.cache and name not in stage.train]
        self._weights: dict[str, str] = {}
        self._stores: dict[tuple[str, str], Store | None] = {}

    def use(self, role: str) -> None:
        """Let the models read what is stored for the data of this role."""
        for name in self.models:
            store, rows = self.store(name, role), self.loaders[role].rows_per_sample
            for node in self._nodes(name):
                node.cached = Cached(node, store.entries, store, rows) if store is not None else None

    @contextlib.contextmanager
    def on(self, role: str) -> Iterator[None]:
        """Let the models read what is stored for the data of this role, and that of training afterwards."""
        self.use(role)
        try:
            yield
        finally:
            self.use("train")

    def _nodes(self, name: str) -> list[Node]:
        passes = [self.objective.node_pass(name, training=training) for training in (True, False)]
        return [each.node for each in passes if each is not None]

    def node_pass(self, name: str, role: str) -> NodePass | None:
        """Return how a model runs on the data of a role, None if it does not."""
        return self.objective.node_pass(name, training=role == "train")

    def store(self, name: str, role: str) -> Store | None:
        """Return what is stored of a model on the data of a role, None if it does not run there."""
        if (name, role) not in self._stores:
            node_pass = self.node_pass(name, role)
            self._stores[name, role] = node_pass and self._opened(node_pass, self.loaders[role])
        return self._stores[name, role]

    def check(self) -> None:
        """Raise what would stop a cache later: random data, values without a row per sample, a top_k too large."""
        for name in self.models:
            for role, loader in self.loaders.items():
                node_pass = self.node_pass(name, role)
                if node_pass is not None:
                    try:
                        steady_entries(loader, self.config.models[name])
                        self._check_values(node_pass, loader)
                    except KdcoreError as error:
                        raise error.at(self._config(name).place) from error

    def _config(self, name: str) -> CacheConfig:
        cache = self.config.models[name].cache
        assert cache is not None
        return cache

    def _check_values(self, node_pass: NodePass, loader: Loader) -> None:
        first = loader.first_batch()
        rows, cache = loader.rows_per_sample, self._config(node_pass.node.name)
        whole = self._values(node_pass, first, rows)
        single = self._values(node_pass, loader.draw([int(first["index"][0])]), rows)
        for address, value in whole.items():
            if value.shape[1:] != single[address].shape[1:]:
                raise WiringError(
                    f"{address} cannot be cached: a row of it has shape {tuple(value.shape[1:])} in a batch of "
                    f"{len(first['index'])} samples and {tuple(single[address].shape[1:])} in a batch of one",
                    repair="address a tensor whose first dimension alone is the batch, or write cache: false",
                )
            try:
                Codec.of(value, rows, cache.dtype, top_k_of(cache, address)).check(value)
            except KdcoreError as error:
                raise error.adding(f"at {address}") from None

    def _values(self, node_pass: NodePass, batch: Sample, rows: int) -> dict[Address, Tensor]:
        node, moved = node_pass.node, to_device(batch, self.assembly.device)
        try:
            with torch.no_grad(), autocast(self.assembly.device, self.stage.precision):
                node.compute(moved, node_pass.stop)
                read = {address: node.reader(address)(moved) for address in node_pass.addresses}
        finally:
            node.clear()
        return {address: checked(value, address, len(batch["index"]) * rows) for address, value in read.items()}

    def _opened(self, node_pass: NodePass, loader: Loader) -> Store:
        name, data, rows = node_pass.node.name, loader.config.name, loader.rows_per_sample
        cache = self._config(name)
        parent = Path(cache.folder) if cache.folder else Path(self.config.output_dir) / "cache"
        folder = open_folder(parent.expanduser(), name, data, self._fingerprint(name, loader), cache, self.tell)
        store = Store(
            folder,
            node_pass.addresses,
            cache,
            samples=len(loader.dataset),
            rows_per_sample=rows,
            device=self.assembly.device,
            tell=self.tell,
        )
        there = f"{store.marked} of {store.samples} samples" + (f", {show_bytes(store.nbytes)}" if store.nbytes else "")
        self.tell(f"the cache of {name} on {data} has {there}: {folder}")
        return store

    def _fingerprint(self, name: str, loader: Loader) -> Fingerprint:
        if name not in self._weights:
            self._weights[name] = weights_digest(self.assembly.models[name])
        cache, samples = self._config(name), len(loader.dataset)
        entries = steady_entries(loader, self.config.models[name])
        return Fingerprint(
            {
                "weights": self._weights[name],
                **model_parts(self.config, name),
                **data_parts(self.config, loader.config.name, samples, loader.rows_per_sample, entries),
                "precision": self.stage.precision,
                "dtype": cache.dtype,
                "top_k": str(cache.top_k),
            }
        )
