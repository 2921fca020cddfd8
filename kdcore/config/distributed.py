"""Checks of `distributed:`, how several processes share the work."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from kdcore.config.checker import Checker
from kdcore.config.config import DistributedConfig, StageConfig
from kdcore.config.deepspeed import check_deepspeed
from kdcore.errors import suggestion

DDP = "ddp"
FSDP = "fsdp"
DEEPSPEED = "deepspeed"
# Their steps need operations that torch does not have for split tensors.
WHOLE_ONLY = frozenset({"Adafactor", "Rprop"})


def check_distributed(
    checker: Checker, node: dict[str, Any], models: Collection[str], stages: Sequence[StageConfig | None]
) -> DistributedConfig:
    """Read `distributed:` and report patterns and options that can have no effect.

    A file of DeepSpeed takes its place in `node`, so that what a run was made with is saved with it.
    """
    patterns = node.get("shard", [])
    shard = tuple(each for each in patterns if isinstance(each, str)) if isinstance(patterns, list) else ()
    strategy = node.get("strategy", DDP)
    if shard and strategy in {DDP, DEEPSPEED}:
        nothing = "shards nothing" if strategy == DDP else "splits what is trained by itself"
        checker.problem(
            f"shard: says what is sharded, but strategy: {strategy} {nothing}",
            ("distributed", "shard"),
            "write strategy: fsdp, or remove shard:",
        )
    passed: Mapping[str, Any] = {}
    if strategy == DEEPSPEED:
        given, passed = check_deepspeed(checker, node.get("config"), ("distributed", "config"), stages)
        if given is not None:
            node["config"] = given
    elif "config" in node:
        checker.problem(
            f"config: is DeepSpeed's, and strategy: {strategy} does not use it",
            ("distributed", "config"),
            "write strategy: deepspeed, or remove config:",
            key=True,
        )
    config = DistributedConfig(strategy, shard, passed)
    trained = {name for stage in stages if stage is not None for name in stage.train}
    for index, pattern in enumerate(shard):
        name = pattern.split(".")[0]
        where = ("distributed", "shard", index)
        if name not in models:
            checker.problem(f"shard: {pattern!r} begins with no model", where, suggestion(name, models, noun="models"))
        elif name not in trained:
            checker.problem(
                f"shard: {pattern!r} is part of {name!r}, which no stage trains",
                where,
                "what is frozen stays whole in each process; remove the pattern",
            )
    if config.strategy == FSDP:
        for stage in stages:
            if stage is not None:
                _check_stage(checker, stage)
    return config


def _check_stage(checker: Checker, stage: StageConfig) -> None:
    if stage.compile:
        checker.problem(
            f"stage {stage.name!r} is compiled, and strategy: fsdp shards what is trained: one excludes the other",
            ("stages", stage.index, "compile"),
            "write compile: false, or strategy: ddp",
        )
    if stage.pruning:
        checker.problem(
            f"stage {stage.name!r} prunes, which needs whole weights and gradients, and strategy: fsdp splits them",
            ("stages", stage.index, "pruning"),
            "write strategy: ddp, or remove pruning:",
        )
    optimizer = (stage.optimizer or {}).get("type")
    if optimizer in WHOLE_ONLY:
        checker.problem(
            f"torch's {optimizer} cannot work with parameters that are split, as strategy: fsdp splits them",
            ("stages", stage.index, "optimizer"),
            "choose another optimizer, such as AdamW, or strategy: ddp",
        )
