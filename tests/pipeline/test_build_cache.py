"""`cache:` and a loop of one's own: refused where a frozen model would run in every step all the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kdcore
from kdcore.errors import WiringError

CONFIG = """
version: 1
models:
  teacher: {cache: true}
  student: {}
stages:
  - {name: distill, train: [student], losses: {kd: kd}}
  - {name: alone, train: [student], losses: {ce: cross_entropy}}
"""
BATCH = {"input": torch.randn(4, 6), "target": torch.arange(4), "index": torch.arange(4)}


def build(stage: str, *overrides: str) -> kdcore.Objective:
    models = {"teacher": nn.Linear(6, 5), "student": nn.Linear(6, 5)}
    return kdcore.build_objective(CONFIG, models=models, example_batch=BATCH, stage=stage, overrides=overrides)


def test_a_cache_of_a_model_that_runs_is_refused() -> None:
    with pytest.raises(WiringError, match=r"(?s)4:\d+.*'teacher' has a cache, which only kd run.*teacher\.cache=false"):
        build("distill")


def test_without_it_or_where_the_model_does_not_run_all_is_well() -> None:
    assert build("distill", "models.teacher.cache=false")(BATCH).total.isfinite()
    assert build("alone")(BATCH).total.isfinite()
