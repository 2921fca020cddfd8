"""Whole numbers of a trained model where a loss would learn are refused before training; lookups and masks are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcore import Input, Role
from kdcore.errors import WiringError
from kdcore.pipeline.build import build_objective
from kdcore.pipeline.objective import Objective

from .toys import config, one_stage, registry


class Talker(nn.Module):
    """Returns what a model may return besides its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        logits = self.fc(x)
        return {
            "logits": logits,
            "feature": logits[:, :3],
            "map": logits.unsqueeze(-1).unsqueeze(-1).expand(-1, -1, 2, 2),
            "labels": logits.argmax(-1),
            "rounded": logits.round().long(),
            "whole_map": logits.unsqueeze(-1).unsqueeze(-1).expand(-1, -1, 2, 2).long(),
            "tokens": logits.argsort(-1),
            "kept": logits > 0,
            "weights": (logits > 0).long(),
            "spectrum": torch.fft.fft(logits),
            "hidden": (logits,),
            "aux": logits.square().mean(),
        }


class Lookup(nn.Module):
    """Picks the logits of tokens, which it looks up by number."""

    def forward(self, input: Tensor, tokens: Tensor) -> Tensor:
        return -input.log_softmax(-1).gather(-1, tokens).mean()


class Weighted(nn.Module):
    """Counts positions by a weight."""

    def forward(self, input: Tensor, weights: Tensor) -> Tensor:
        return (input.square() * weights.to(input.dtype)).mean()


class Spectral(nn.Module):
    """Reads the magnitudes of complex numbers."""

    def forward(self, input: Tensor) -> Tensor:
        return input.abs().mean()


def built(loss: str, train: str = "student") -> Objective:
    plugins = registry()
    plugins.register("loss", "lookup", Lookup)
    plugins.register("loss", "weighted", Weighted)
    plugins.register("loss", "spectral", Spectral)
    declared = [Input("input"), Input("weights", role=Role.LABELS)]
    plugins.register("loss", "declared", Weighted, inputs=declared)
    models = {"student": Talker(), "teacher": Talker()}
    stage = one_stage(f"{{l: {loss}, ce: {{type: ce, inputs: {{input: student@raw#logits}}}}}}", train)
    text = f"models: {{student: {{}}, teacher: {{}}}}\n{stage}    balancer: weighted_sum\n"
    generator = torch.Generator().manual_seed(0)
    batch = {"input": torch.randn(6, 5, generator=generator), "target": torch.arange(6) % 4}
    return build_objective(config(text, plugins), models=models, example_batch=batch)


def installed(kind: str, **inputs: str) -> Objective:
    """Wire a loss of an installed plugin."""
    bound = ", ".join(f"{name}: '{address}'" for name, address in inputs.items())
    text = (
        "version: 1\nmodels: {student: {}, teacher: {}}\nstages:\n  - name: only\n    train: [student]\n"
        f"    losses: {{l: {{type: {kind}, inputs: {{{bound}}}}}}}\n"
    )
    generator = torch.Generator().manual_seed(0)
    batch = {"input": torch.randn(8, 5, generator=generator), "target": torch.arange(2)}
    batch["variance"] = torch.ones(1, 4)
    models = {"student": Talker(), "teacher": Talker()}
    return build_objective(text, models=models, example_batch=batch)


LOGITS = {"student": "student@raw#logits", "teacher": "teacher@raw#logits"}
FEATURES = {"student_feature": "student@raw#feature", "teacher_feature": "teacher@raw#feature"}
MAPS = {"student_feature": "student@raw#map", "teacher_feature": "teacher@raw#map"}
FLOW = {f"{side}_{place}": f"{side}@raw#map" for side in ("student", "teacher") for place in ("first", "second")}
EMBEDDED = {"student_embedding": "student@raw#feature", "teacher_embedding": "teacher@raw#feature"}


@pytest.mark.parametrize(
    ("kind", "inputs", "name", "key"),
    [
        ("srd", {**LOGITS, **FEATURES}, "student", "rounded"),
        ("dist_plus", {**LOGITS, **MAPS}, "student_feature", "whole_map"),
        ("fsp", FLOW, "student_second", "whole_map"),
        ("sskd", {**LOGITS, **EMBEDDED}, "student_embedding", "rounded"),
        ("vid", {"teacher": "teacher@raw#logits", "variance": "batch:variance"}, "mean", "rounded"),
        ("at", {"student": "student@raw#map", "teacher": "teacher@raw#map"}, "student", "whole_map"),
    ],
)
def test_installed_losses_refuse_them_in_every_input_that_learns(
    kind: str, inputs: dict[str, str], name: str, key: str
) -> None:
    pattern = (
        rf"l: term 'l' \(loss '{kind}' \(.*\)\) learns from {name}, but student@raw#{key} is int64\[.*\] of .*: "
        r"no gradient flows back through whole numbers\n    bind the logits or features"
    )
    with pytest.raises(WiringError, match=pattern):
        installed(kind, **{**inputs, name: f"student@raw#{key}"})


@pytest.mark.parametrize(
    "loss",
    [
        "{type: lookup, inputs: {input: student@raw#logits, tokens: student@raw#tokens}}",
        "{type: ce, inputs: {input: student@raw#logits, target: student@raw#labels}}",
        "{type: weighted, inputs: {input: student@raw#logits, weights: student@raw#kept}}",
        "{type: declared, inputs: {input: student@raw#logits, weights: student@raw#weights}}",
        "{type: weighted, inputs: {input: student@raw#logits, weights: teacher@raw#weights}}",
        "{type: spectral, inputs: {input: student@raw#spectrum}}",
        "{type: mse, inputs: {input: student@raw#logits, target: teacher@raw#rounded}}",
        "{type: mse, weight: 0, inputs: {input: student@raw#rounded, target: teacher@raw#logits}}",
    ],
    ids=["tokens", "labels", "a mask", "declared weights", "a teacher's weights", "complex", "a teacher's", "weight 0"],
)
def test_what_is_whole_by_nature_is_taken(loss: str) -> None:
    assert built(loss)


def test_a_trained_teacher_s_side_is_detached_and_may_be_whole() -> None:
    assert built("{type: mse, inputs: {input: student@raw#logits, target: teacher@raw#rounded}}", "student, teacher")


def test_weights_that_are_not_declared_as_such_are_told_how() -> None:
    with pytest.raises(WiringError, match=r"learns from weights, but student@raw#weights .*\n.*role=Role\.LABELS"):
        built("{type: weighted, inputs: {input: student@raw#logits, weights: student@raw#weights}}")


def test_one_of_a_list_is_found() -> None:
    text = (
        "version: 1\nmodels: {student: {}, teacher: {}}\nstages:\n  - name: only\n    train: [student]\n"
        "    losses: {l: {type: at, wrapper: pairs, inputs: {student: [student@raw#map, student@raw#whole_map], "
        "teacher: [teacher@raw#map, teacher@raw#map]}}}\n"
    )
    with pytest.raises(WiringError, match="learns from student, but student@raw#whole_map is int64"):
        build_objective(
            text, models={"student": Talker(), "teacher": Talker()}, example_batch={"input": torch.randn(4, 5)}
        )
