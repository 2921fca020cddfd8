"""What cannot be sharded is refused when a stage is wired; in one process sharding changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdcore import build_objective
from kdcore.config.load import load_config
from kdcore.errors import ConfigError, WiringError
from kdcore.plugins import Registry

CONFIG = """
version: 1
models: {teacher: {}, student: {}}
distributed: {strategy: fsdp, shard: [student.layers.*]}
stages:
  - name: only
    train: [student]
    losses: {ce: cross_entropy}
"""


class Layer(nn.Module):
    """Two parts, the first of which can be looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.outer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.relu(self.inner(x)))


class Net(nn.Module):
    """Layers and a head, and perhaps a parameter that is no usual one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.fc(x)


class Scaled(Net):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * super().forward(x)


class Mixed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.fc.double()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.fc(x.double()).float()


class Tied(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layers[1].inner.weight = self.layers[0].inner.weight


def wired(*overrides: str, student: type[Net] = Net, plugins: Registry | None = None) -> None:
    config = load_config(CONFIG, overrides=overrides, external_models=("teacher", "student"), plugins=plugins)
    torch.manual_seed(0)
    batch = {"input": torch.randn(6, 4), "target": torch.arange(6) % 3}
    build_objective(config, models={"teacher": Net(), "student": student()}, example_batch=batch)


LOOK = "stages.only.losses={{look: {{type: mse, inputs: {{input: student:{0}, target: teacher:{0}}}}}}}"


def test_a_loss_may_look_at_blocks_and_into_those_that_something_uses() -> None:
    wired()
    wired(LOOK.format("layers.0"))
    wired(LOOK.format("layers.1@input"))
    # The layer after it uses the first layer's output.
    wired(LOOK.format("layers.0.inner"), "stages.only.losses.ce=cross_entropy")
    # Each part is gathered by itself.
    wired(LOOK.format("layers.0.inner"), "distributed.shard=[student.layers.*.*]")


@pytest.mark.parametrize("shard", ["student.layers.*", "student", "student.layers.*, student.fc"])
def test_a_look_inside_a_block_that_nothing_uses_is_refused(shard: str) -> None:
    with pytest.raises(WiringError, match=r"looks inside the sharded block student(.|\n)*nothing uses(.|\n)*its parts"):
        wired(LOOK.format("layers.0.inner"), f"distributed.shard=[{shard}]")


def test_only_the_innermost_block_decides() -> None:
    wired(LOOK.format("layers.0.inner"), "distributed.shard=[student.layers.0.inner, student.layers.*.outer]")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("student.layer.*", r"matches no module of 'student'(.|\n)*student.layers"),
        ("student.*.inner", r"matches no module of 'student'"),
        ("student.layers", r"a ModuleList, which holds modules and never runs(.|\n)*write student.layers.\*"),
    ],
)
def test_a_pattern_names_modules_that_run(pattern: str, message: str) -> None:
    with pytest.raises(WiringError, match=message):
        wired(f"distributed.shard=[{pattern}]")


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (Scaled, r"without a dimension cannot be sharded: student.scale(.|\n)*shape \(1,\)"),
        (Tied, r"student.layers.0 shares a parameter with student.layers.1.inner \(weight\)"),
        (Mixed, None),
    ],
)
def test_parameters_must_be_divisible(student: type[Net], message: str | None) -> None:
    if message is None:
        wired(student=student)
        with pytest.raises(WiringError, match=r"has one dtype(.|\n)*float32(.|\n)*float64"):
            wired("distributed.shard=[]", student=student)
        return
    with pytest.raises(WiringError, match=message):
        wired(student=student)


def test_a_module_within_a_block_cannot_be_handed_to_a_loss() -> None:
    class Fused(nn.Module):
        def forward(self, input: Tensor, head: nn.Module) -> Tensor:
            return head(input).square().mean()

    from kdcore.component import Input

    plugins = Registry.discover()
    plugins.register("loss", "fused", Fused, inputs=[Input("input"), Input("head", role="module")])
    term = "stages.only.losses.f={{type: fused, inputs: {{input: student:layers.0, head: student:{}@module}}}}"
    wired(term.format("fc"), plugins=plugins)
    with pytest.raises(WiringError, match=r"student:layers.1.inner@module lies inside the sharded block"):
        wired(term.format("layers.1.inner"), plugins=plugins)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("distributed.strategy=ddp", r"shard: says what is sharded, but strategy: ddp shards nothing"),
        ("distributed.strategy=zero", r"'strategy' must be one of 'ddp', 'fsdp' or 'deepspeed', found 'zero'"),
        ("distributed.shard=[studend.layers.*]", r"begins with no model(.|\n)*did you mean 'student'"),
        ("distributed.shard=[teacher.layers.*]", r"part of 'teacher', which no stage trains"),
        ("stages.only.compile=true", r"'only' is compiled, and strategy: fsdp"),
        ("stages.only.optimizer={type: Adafactor}", r"torch's Adafactor cannot work with parameters that are split"),
    ],
)
def test_what_has_no_effect_is_refused_when_the_config_is_read(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(CONFIG, overrides=[override], external_models=("teacher", "student"))


RUN = """
version: 1
name: alone
output_dir: {folder}
data: {{train: {{type: digits, batch_size: 256}}}}
models: {{student: {{type: digits_mlp, params: {{width: 4}}}}}}
distributed: {{strategy: fsdp}}
stages:
  - name: only
    epochs: 1
    steps_per_epoch: 1
    train: [student]
    losses: {{ce: cross_entropy}}
    optimizer: {{type: SGD, params: {{lr: 0.1}}}}
"""


def test_one_process_says_that_it_splits_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from kdcore.engine.run import run

    folder = run(load_config(RUN.format(folder=tmp_path)))
    assert "splits nothing, because this run has one process" in "".join(capsys.readouterr())
    assert (folder / "student.safetensors").exists()
