"""DeepSpeed's config: what the run decides is refused with its line, whether it stands in a file or in the config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdcore.config.config import Config
from kdcore.config.load import load_config
from kdcore.errors import ConfigError

CONFIG = """
version: 1
models: {teacher: {}, student: {}}
distributed:
  strategy: deepspeed
  config: CONFIG
stages:
  - name: only
    train: [student]
    losses: {ce: cross_entropy}
"""


def load(config: str, *overrides: str) -> Config:
    text = CONFIG.replace("CONFIG", config)
    return load_config(text, overrides=overrides, external_models=("teacher", "student"))


def problems(config: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(config, *overrides)
    return str(caught.value)


def written(folder: Path, content: Any) -> str:
    file = folder / "zero.json"
    # Indented by tabs, as editors do it.
    file.write_text(content if isinstance(content, str) else json.dumps(content, indent="\t"))
    return str(file)


def test_a_file_takes_its_place_in_the_config(tmp_path: Path) -> None:
    content = {
        "train_batch_size": "auto",
        "optimizer": "auto",
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": False, "loss_scale": 0},
        "flops_profiler": {"enabled": False},
        "communication_data_type": "fp32",
        "zero_optimization": {
            "stage": 2,
            "reduce_bucket_size": "auto",
            "allgather_bucket_size": 2e8,
            "stage3_param_persistence_threshold": "auto",
            "offload_param": {"device": "none"},
        },
    }
    config = load(written(tmp_path, content))
    passed = {"communication_data_type": "fp32", "zero_optimization": {"stage": 2, "allgather_bucket_size": 2e8}}
    assert config.distributed.deepspeed == passed
    assert config.resolved["distributed"]["config"] == content
    # What is saved with the run is read the same.
    again = load(json.dumps(config.resolved["distributed"]["config"]))
    assert again.distributed == config.distributed


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train_batch_size", 8, r"decided by the run(.|\n)*batch_size: of the data"),
        ("train_micro_batch_size_per_gpu", 8, r"decided by the run(.|\n)*batch_size: of the data is that of each"),
        ("gradient_accumulation_steps", 1, r"decided by the run(.|\n)*write accumulate: in the stage"),
        ("gradient_clipping", 1.0, r"decided by the run(.|\n)*write clip_grad_norm: in the stage"),
        ("optimizer", {"type": "AdamW", "params": {"lr": "auto"}}, r"write auto, or remove it: write optimizer: in"),
        ("scheduler", {"type": "WarmupLR"}, r"write auto, or remove it: write scheduler: in the stage"),
        ("fp16", {"enabled": True}, r"change the precision(.|\n)*precision: bfloat16 in the stage; float16 is not"),
        ("bf16", {"enabled": True}, r"change the precision of the run"),
        ("torch_autocast", {"enabled": True}, r"change the precision of the run"),
        ("amp", {"opt_level": "O1"}, r"change the precision of the run"),
        ("wall_clock_breakdow", True, r"not among the keys(.|\n)*did you mean 'wall_clock_breakdown'"),
        ("gradient_allreduce_op", "sum", r"not among the keys that a run can pass on"),
    ],
)
def test_what_the_run_decides_is_refused_at_its_line(tmp_path: Path, key: str, value: Any, message: str) -> None:
    file = written(tmp_path, {"zero_optimization": {"stage": 1}, key: value})
    found = problems(file)
    assert f"{file}:5:2: {key}: DeepSpeed's" in found
    with pytest.raises(ConfigError, match=message):
        load(file)
    # The same within the config, by its path there.
    assert f"distributed.config.{key}: DeepSpeed's" in problems(
        json.dumps({"zero_optimization": {"stage": 1}, key: value})
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": 3}, r"zero_optimization.stage: ZeRO stage 3 splits the parameters(.|\n)*strategy: fsdp"),
        ({"stage": 0}, r"stage is 0, and without ZeRO stage 1 or 2 DeepSpeed splits nothing(.|\n)*strategy: ddp"),
        ({"stage": "auto"}, r"stage is 'auto', and without"),
        ({"stage": [2]}, r"stage is \[2\], and without"),
        ({"stage": True}, r"stage is True, and without"),
        ({}, r"zero_optimization: \{stage: ...\} is not there"),
        ({"stage": 2, "overlap_com": True}, r"overlap_com is not among the keys(.|\n)*did you mean 'overlap_comm'"),
        ({"stage": 2, "zero_quantized_gradients": True}, r"zero_quantized_gradients is not among the keys"),
    ],
)
def test_only_what_keeps_the_result_is_passed_on(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(json.dumps({"zero_optimization": options}))


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    found = problems(written(tmp_path, {"train_batch_size": 8, "bf16": {"enabled": True}}))
    assert "3 errors" in found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"zero.json:1:2"),
        ('{"zero_optimization": {"stage": 1}, "zero_optimization": {"stage": 2}}', r"zero_optimization(.|\n)*twice"),
        ("[1]", r"not a mapping"),
    ],
)
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(written(tmp_path, content))


ZERO_1 = "{zero_optimization: {stage: 1}}"


@pytest.mark.parametrize(
    ("config", "override", "message"),
    [
        ("nowhere.json", "name=x", r"6:11: distributed.config: DeepSpeed's config 'nowhere.json' cannot be read: No such"),
        ("3", "name=x", r"distributed.config(.|\n)*must be text or a mapping"),
        (ZERO_1, "distributed.shard=[student.layers.*]", r"strategy: deepspeed splits what is trained by itself"),
        (ZERO_1, "distributed.strategy=fsdp", r"config: is DeepSpeed's, and strategy: fsdp does not use it"),
        (ZERO_1, "stages.only.compile=true", r"'only' is compiled, which has not been tried with strategy: deepspeed"),
        (ZERO_1, "stages.only.pruning={criterion: magnitude, target_sparsity: 0.5}",
         r"'only' prunes, and DeepSpeed keeps a copy of the weights(.|\n)*strategy: ddp"),
        (ZERO_1, "stages.only.find_unused=true", r"some steps do not use, and DeepSpeed steps them all the same"),
        (ZERO_1, "stages.only.optimizer={type: Adafactor}", r"Adafactor cannot step a flat part(.|\n)*choose one of ASGD"),
        (ZERO_1, "stages.only.optimizer={type: Adagrad}", r"torch's Adagrad cannot step a flat part"),
        ("{zero_optimization: {stage: 1, offload_optimizer: {device: cpu}}}", "stages.only.on_nonfinite=skip",
         r"'only' drops steps that are not finite, which DeepSpeed's offload_optimizer cannot"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(config: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(config, override)


def test_a_config_of_deepspeed_is_required() -> None:
    text = CONFIG.replace("  config: CONFIG\n", "")
    with pytest.raises(ConfigError, match=r"strategy: deepspeed needs DeepSpeed's own config(.|\n)*its JSON file"):
        load_config(text, external_models=("teacher", "student"))
