"""Whoever sets what the process goes by is caught, when it is imported, built or called, and the process is as before."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdcore.component import Kind
from kdcore.testing.defaults import defaults
from tests.testing import test_wrong_losses, test_wrong_parts
from tests.testing.test_wrong_losses import registered
from tests.testing.test_wrong_parts import offer
from tests.testing.wrong import defaults as wrong

LOSSES = [
    (wrong.Doubles, r"called in training it changes torch's default dtype, from torch\.float32 to torch\.float64"),
    (wrong.ElsewhereWhenBuilt, "built it changes torch's default device, from cpu to meta"),
    (wrong.NoGradients, "called in eval mode it changes whether gradients are recorded, from True to False"),
    (wrong.Deterministic, "built it changes torch's use of deterministic algorithms"),
    (wrong.Threads, "called in training it changes torch's number of threads, from 1 to 2"),
    (wrong.FastProducts, "built it changes torch's precision of matrix products, from highest to medium"),
    (wrong.Benchmarks, r"built it changes torch\.backends\.cudnn\.benchmark, from False to True"),
    (wrong.Silences, "built it changes the filters of warnings, which now has"),
    (wrong.NumpySilent, "called in training it changes numpy's treatment of errors, divide from warn to ignore"),
    (wrong.Environment, "built it changes the environment, CUDA_LAUNCH_BLOCKING from absent to 1"),
    (wrong.Replaces, r"in the place of torch\.nn\.functional\.gelu, which everybody calls"),
]


@pytest.fixture(autouse=True)
def gelu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back the function that `Replaces` replaces, which only the check that looks for it does."""
    monkeypatch.setattr(nn.functional, "gelu", nn.functional.gelu)


@pytest.mark.parametrize(("factory", "message"), LOSSES, ids=[each.__name__ for each, _ in LOSSES])
def test_a_loss_that_sets_a_default(factory: Any, message: str) -> None:
    found = test_wrong_losses.failures(registered(factory))
    assert list(found) == ["defaults_kept"], found
    assert re.search(message, found["defaults_kept"]), found


PARTS = [
    (Kind.WRAPPER, wrong.WrapperSilences, "the filters of warnings"),
    (Kind.ADAPTER, wrong.AdapterThreads, "torch's number of threads"),
    (Kind.OUTPUT_EXTRACTOR, wrong.ExtractorWithoutGradients, "whether gradients are recorded"),
    (Kind.CRITERION, wrong.CriterionProducts, "torch's precision of matrix products"),
    (Kind.DATASET, wrong.DataThreads, "torch's number of threads"),
]


@pytest.mark.parametrize(("kind", "factory", "what"), PARTS, ids=[part.__name__ for _, part, _ in PARTS])
def test_a_part_that_sets_a_default(kind: Kind, factory: Any, what: str) -> None:
    found = test_wrong_parts.failures(kind, factory)
    assert list(found) == ["defaults_kept"], found
    assert f"it changes {what}" in found["defaults_kept"]


def test_what_is_put_back_is_no_failure() -> None:
    assert test_wrong_losses.failures(registered(wrong.SetsAndPutsBack)) == {}


def test_a_package_that_sets_a_default_when_it_is_imported(kd: Callable[..., Any], install: Any, site: Path) -> None:
    offer(install, "importer")
    file = site / "kd_plugin_importer" / "loss.py"
    file.write_text(file.read_text() + "\ntorch.set_float32_matmul_precision('high')\n")
    found = kd("plugins", "check", "importer")
    assert found.code == 1
    assert "imported it changes torch's precision of matrix products" in " ".join(found.out.split())
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("factory", [wrong.Doubles, wrong.ElsewhereWhenBuilt, wrong.Environment])
def test_the_process_is_as_before(factory: Any) -> None:
    before = defaults()
    test_wrong_losses.failures(registered(factory))
    assert defaults() == before
