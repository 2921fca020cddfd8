"""`srd_projector` against its formula, the sizes it takes from the facts, and at its edges."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from kd_plugin_srd.projector import SRDProjector
from torch import Tensor

from kdcore.config.load import load_config
from kdcore.contracts import Facts, TensorFacts
from kdcore.errors import ConfigError

standardised = runpy.run_path(str(Path(__file__).with_name("textbook.py")))["standardised"]


def tensor(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def facts(x: tuple[int, ...] | None = None, like: tuple[int, ...] | None = None) -> Facts:
    as_facts = [None if shape is None else TensorFacts(shape, torch.float32) for shape in (x, like)]
    return Facts(inputs={} if as_facts[0] is None else {"x": as_facts[0]}, like=as_facts[1])


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2), (4, 3, 2, 2)])
def test_it_is_mean_layer_and_standardisation(shape: tuple[int, ...]) -> None:
    x = tensor(*shape)
    features = x.flatten(2).mean(2) if x.dim() > 2 else x
    torch.testing.assert_close(SRDProjector(linear=False)(x), standardised(features))
    projector = SRDProjector(3, 4).double()
    assert projector.layer is not None
    torch.testing.assert_close(projector(x), standardised(features @ projector.layer.weight.T + projector.layer.bias))
    assert torch.autograd.gradcheck(projector, (x,))


def test_evaluation_standardises_by_the_batch_too_and_there_is_nothing_to_save() -> None:
    projector = SRDProjector(linear=False)
    x = tensor(5, 3)
    torch.testing.assert_close(projector.eval()(x), projector.train()(x), rtol=0, atol=0)
    assert not projector.state_dict()


def test_sizes_come_from_the_facts() -> None:
    projector = SRDProjector()
    projector.setup(facts((8, 3, 4, 4), (8, 6, 2, 2)))
    layer = projector.layer
    assert layer is not None
    assert layer.weight.shape == (6, 3)
    projector.setup(facts((8, 3, 4, 4), (8, 6, 2, 2)))
    assert projector.layer is layer
    explicit = SRDProjector(out_features=9)
    explicit.setup(facts((8, 3), (8, 6)))
    assert explicit.layer is not None
    assert explicit.layer.weight.shape == (9, 3)
    without = SRDProjector(linear=False)
    without.setup(facts((8, 3)))
    assert not list(without.parameters())


@pytest.mark.parametrize(
    ("projector", "given", "message"),
    [
        (SRDProjector(), facts((8, 3)), "does not know its out_features; give like:, or give the param"),
        (SRDProjector(), facts(None, (8, 3)), "does not know its in_features; bind x, or give the param"),
        (SRDProjector(in_features=4), facts((8, 3), (8, 3)), "in_features is 4 but x has 3 channels"),
        (SRDProjector(3, 4), facts((8, 3), (8, 5)), None),
        (SRDProjector(3, 4), facts((8, 2), (8, 5)), "in_features is 3 but x has 2 channels"),
    ],
)
def test_sizes_that_are_not_known_or_differ(projector: SRDProjector, given: Facts, message: str | None) -> None:
    if message is None:
        projector.setup(given)  # an explicit size overrides `like`
        return
    with pytest.raises(ValueError, match=message):
        projector.setup(given)


def test_a_layer_does_not_change_its_size() -> None:
    projector = SRDProjector()
    projector.setup(facts((8, 3), (8, 5)))
    with pytest.raises(ValueError, match="a layer from 3 to 5 features and cannot change to 3 and 6"):
        projector.setup(facts((8, 3), (8, 6)))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"in_features": 0}, "in_features is 0; it must be 1 or more"),
        ({"linear": False, "out_features": 4}, "out_features is for linear: true"),
        ({"eps": 0}, "eps is 0; it must be above 0"),
    ],
)
def test_wrong_params(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SRDProjector(**params)


CONFIG = """
version: 1
models: {student: {}, teacher: {}}
adapters:
  standardise: {type: srd_projector, params: {linear: false, out_features: 4}, inputs: {x: "teacher:0"}}
stages:
  - {name: distil, train: [student], losses: {l2: {type: mse, inputs: {input: student, target: standardise}}}}
"""


def test_a_config_is_told_of_a_size_without_a_layer() -> None:
    with pytest.raises(ConfigError, match=r"(?s)adapters\.standardise\.params\.out_features.*is for linear: true"):
        load_config(CONFIG, external_models=["student", "teacher"])
    assert load_config(CONFIG.replace(", out_features: 4", ""), external_models=["student", "teacher"])


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match=r"x has shape \(1, 3\); .*needs 2 or more in a batch"):
        SRDProjector(linear=False)(tensor(1, 3))
    with pytest.raises(ValueError, match=r"used before setup\(facts\) created its layer"):
        SRDProjector()(tensor(4, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dead_features_are_zero_with_a_finite_gradient(dtype: torch.dtype) -> None:
    x = torch.zeros(4, 3, dtype=dtype, requires_grad=True)
    y = SRDProjector(linear=False)(x)
    assert y.dtype == dtype
    assert not y.any()
    y.square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
