"""bfloat16 and compiled models: the same training, in other arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from kdcore import build_objective, load_config
from kdcore.engine.run import run
from kdcore.errors import WiringError

BASE = """\
version: 1
name: fast
output_dir: {folder}
data:
  train: {{type: digits, params: {{split: train, samples_per_class: 8}}, batch_size: 16, shuffle: true}}
  test: {{type: digits, params: {{split: test}}, batch_size: 256}}
models:
  teacher: {{type: digits_cnn, params: {{width: 4}}}}
  student: {{type: digits_cnn, params: {{width: 2}}}}
adapters:
  proj: {{type: conv1x1, inputs: {{x: student:block2}}, like: teacher:block2}}
stages:
  - name: teach
    epochs: 1
    train: [teacher]
    losses:
      ce: {{type: cross_entropy, inputs: {{input: teacher}}}}
    optimizer: {{type: SGD, params: {{lr: 0.1}}}}
  - name: distill
    epochs: 2
    train: [student, proj]
    losses:
      ce: cross_entropy
      kd: kd
      hint: {{type: mse, inputs: {{input: proj, target: teacher:block2}}}}
    optimizer: {{type: SGD, params: {{lr: 0.1}}}}
"""


def execute(folder: Path, *overrides: str) -> tuple[Path, list[dict[str, float]]]:
    done = run(load_config(BASE.format(folder=folder), overrides=overrides), quiet=True)
    return done, [json.loads(line)["metrics"] for line in (done / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def eager_compiler(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Trace as torch.compile does, but leave out the C++ compiler, which takes a minute."""
    traced: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        traced.append(len(list(graph.graph.nodes)))
        return graph.forward

    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: original(self, backend=backend))
    torch._dynamo.reset()
    return traced


def test_compiled_models_train_as_others_do(tmp_path: Path, eager_compiler: list[int]) -> None:
    _, plain = execute(tmp_path / "plain")
    assert eager_compiler == []
    folder, compiled = execute(tmp_path / "compiled", "stages.distill.compile=true")
    assert len(eager_compiler) >= 3  # teacher, student and adapter
    for one, two in zip(plain, compiled, strict=True):
        assert two == pytest.approx(one, abs=1e-5)
    weights = safetensors.torch.load_file(folder / "student.safetensors")
    assert not [name for name in weights if "_orig_mod" in name]


def test_a_compiled_stage_leaves_the_models_as_they_came(eager_compiler: list[int]) -> None:
    config = load_config(BASE.format(folder="x"), overrides=["stages.distill.compile=true"])
    models = {name: model.part.build() for name, model in config.models.items() if model.part}
    batch = {"input": torch.randn(4, 1, 8, 8), "target": torch.arange(4), "index": torch.arange(4)}
    objective = build_objective(config, models=models, example_batch=batch, stage="distill")
    assert models["student"]._compiled_call_impl is not None
    objective(batch).total.backward()
    exported = objective.export_student()
    assert exported._compiled_call_impl is None
    objective.close()
    assert models["student"]._compiled_call_impl is None
    assert eager_compiler


def test_stages_that_are_compiled_one_after_the_other_do_not_use_up_torchs_limit(
    tmp_path: Path, eager_compiler: list[int]
) -> None:
    again = [f"stages.{stage}.compile=true" for stage in ("teach", "distill")]
    text = BASE.format(folder=tmp_path)
    third = text[text.index("  - name: distill") :].replace("name: distill", "name: more")
    config = load_config(text + third.replace("epochs: 2", "epochs: 1\n    compile: true"), overrides=again)
    # Teacher and student share a class, and each is seen in training and in evaluation: up to 4 variants a stage.
    with torch._dynamo.config.patch(recompile_limit=4, fail_on_recompile_limit_hit=True):
        run(config, quiet=True)
    assert len(eager_compiler) > 4


def test_what_else_is_compiled_goes_on_after_a_compiled_stage(eager_compiler: list[int]) -> None:
    own = nn.Linear(3, 2)
    compiled = torch.compile(own, backend="eager")
    given = torch.randn(4, 3)
    before = compiled(given)
    config = load_config(BASE.format(folder="x"), overrides=["stages.distill.compile=true"])
    models = {name: model.part.build() for name, model in config.models.items() if model.part}
    batch = {"input": torch.randn(4, 1, 8, 8), "target": torch.arange(4), "index": torch.arange(4)}
    objective = build_objective(config, models=models, example_batch=batch, stage="distill")
    objective(batch)
    objective.close()
    assert torch.equal(compiled(given), before)


def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(
        nn.Module,
        "compile",
        lambda self: setattr(self, "_compiled_call_impl", torch.compile(self._call_impl, backend=broken)),
    )
    config = load_config(BASE.format(folder="x"), overrides=["stages.distill.compile=true"])
    models = {name: model.part.build() for name, model in config.models.items() if model.part}
    batch = {"input": torch.randn(4, 1, 8, 8), "target": torch.arange(4), "index": torch.arange(4)}
    objective = build_objective(config, models=models, example_batch=batch, stage="distill")
    with pytest.raises(WiringError, match=r"no compiler here[\s\S]*compile: false shows whether it is that"):
        objective(batch)


def test_bfloat16_trains_nearly_as_float32_does(tmp_path: Path) -> None:
    _, exact = execute(tmp_path / "float32")
    _, rough = execute(tmp_path / "bfloat16", "stages.teach.precision=bfloat16", "stages.distill.precision=bfloat16")
    assert rough != exact
    for one, two in zip(exact, rough, strict=True):
        assert two["train/loss"] == pytest.approx(one["train/loss"], rel=0.05)


@pytest.mark.slow
def test_the_real_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    torch._dynamo.reset()
    _, plain = execute(tmp_path / "plain", "stages.distill.epochs=1")
    _, compiled = execute(tmp_path / "compiled", "stages.distill.epochs=1", "stages.distill.compile=true")
    for one, two in zip(plain, compiled, strict=True):
        assert two == pytest.approx(one, abs=1e-4)
