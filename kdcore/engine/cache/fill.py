"""Filling the caches of a config before anything is trained."""

from __future__ import annotations

from dataclasses import replace

import torch
from rich.console import Console
from rich.progress import track

from kdcore.config.config import Config, StageConfig
from kdcore.engine.cache.caches import StageCaches
from kdcore.engine.data import Datasets
from kdcore.engine.device import autocast, batch_to_device, choose_device, device_errors
from kdcore.engine.loader import Loader
from kdcore.engine.measure import show_bytes
from kdcore.engine.stage import StageLoaders, wire_stage
from kdcore.errors import KdcoreError
from kdcore.pipeline.assembly import Assembly
from kdcore.pipeline.randomness import forked_generators


def fill_caches(config: Config, *, console: Console) -> None:
    """Run the models that have a cache over all data of all stages in which they are frozen.

    Raises what a run would raise when it wires its stages.
    """
    device = choose_device(config.device, config.place("device"))
    datasets = Datasets(config.data)
    with forked_generators(), device_errors():
        assembly = Assembly.build(config, device)
        for stage in config.stages:
            _fill_stage(config, stage, assembly, datasets, console)
    if not any(model.cache for model in config.models.values()):
        _say(console, "no model of this config has a cache: write cache: true for a frozen one")


def _fill_stage(config: Config, stage: StageConfig, assembly: Assembly, datasets: Datasets, console: Console) -> None:
    loaders = StageLoaders(config, stage, datasets)
    assembly.begin(stage)
    wiring, _ = wire_stage(stage, assembly, loaders, assembly.device)
    try:
        caches = StageCaches(
            config, stage, assembly, loaders.by_role, wiring.objective, lambda text: _say(console, text)
        )
        caches.check()
        for name in caches.models:
            changed = _changed_before(config, stage, name)
            if changed and wiring.objective.node_pass(name, training=True):
                _say(
                    console, f"stage {stage.name}: {name} is not filled: {changed}; the run fills it in its first epoch"
                )
                continue
            for role in loaders.by_role:
                _fill(caches, name, role, console)
    except KdcoreError as error:
        raise error.at(stage.place) from error
    finally:
        wiring.objective.close()
    assembly.trained.update(stage.train)


def _changed_before(config: Config, stage: StageConfig, name: str) -> str:
    """Return why the model's weights in this stage are not known yet, nothing if they are."""
    for earlier in config.stages[: stage.index]:
        if name in earlier.train:
            return f"stage {earlier.name} trains it"
    return f"it starts from stage {stage.start[name].stage}" if name in stage.start else ""


def _fill(caches: StageCaches, name: str, role: str, console: Console) -> None:
    store, node_pass = caches.store(name, role), caches.node_pass(name, role)
    if store is None or node_pass is None or store.complete():
        return
    caches.use(role)
    before, device = store.marked, caches.assembly.device
    loader = _in_order(caches.loaders[role], caches)
    with torch.no_grad(), autocast(device, caches.stage.precision):
        what, hidden = f"{name} on {loader.config.name}", not console.is_terminal
        shown = track(loader.epoch(0), what, len(loader), console=console, transient=True, disable=hidden)
        for batch in shown:
            node_pass.node.run(batch_to_device(batch, device), node_pass.stop)
            node_pass.node.clear()
    size = show_bytes(store.nbytes)
    _say(console, f"stored {store.marked - before} samples of {name} on {loader.config.name} ({size} in all)")


def _in_order(loader: Loader, caches: StageCaches) -> Loader:
    """Return a loader that yields every sample once, unless the data set chooses its batches itself."""
    every = replace(loader.config, sampler="sequential", drop_last=False)
    return Loader(every, loader.dataset, caches.config.seed, stage=caches.stage.name)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
