"""2:4: which layers have it, and what is said where the device cannot use it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from kdcore.compaction.call import Call
from kdcore.compaction.semi_structured import convert_and_check, converted, find_pattern, missing_support
from kdcore.errors import RunError, WeightsError
from tests.compaction.nets import lively


def pruned(*sizes: int) -> nn.Sequential:
    """Return linear layers of which all but the last are 2:4."""
    layers = [nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
    model = nn.Sequential(*(each for layer in layers for each in (layer, nn.ReLU())))
    lively(model)
    with torch.no_grad():
        for layer in layers[:-1]:
            layer.weight.view(len(layer.weight), -1, 4)[..., [1, 2]] = 0
    return model


def test_layers_are_told_apart() -> None:
    model = pruned(8, 16, 12, 4)
    with torch.no_grad():
        model[2].weight[3, 1] = 1.0
    pattern = find_pattern(model)
    assert pattern.layers == ["0"]
    assert pattern.others == {"2": (1, 12 * 4), "4": (12, 12)}


def test_a_width_that_four_does_not_divide() -> None:
    model = pruned(8, 6, 4)
    with torch.no_grad():
        model[2].weight.zero_()
    assert find_pattern(model).others == {"2": (4, 8)}


def test_no_layer_at_all() -> None:
    model = pruned(8, 4)
    with pytest.raises(
        WeightsError, match="none of 1 linear layers is 2:4; the closest is 0, where 8 of 8 groups"
    ) as e:
        find_pattern(model)
    assert "pattern: 2:4" in e.value.problem.repair


def test_convolutions_alone_are_no_use() -> None:
    model = lively(nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(8, 4)))
    with torch.no_grad():
        model[0].weight.view(8, 9, 4)[..., [0, 3]] = 0
    with pytest.raises(
        WeightsError, match=r"none of 1 linear layers is 2:4.*; 1 convolutions are, but torch multiplies"
    ):
        find_pattern(model)


@pytest.mark.parametrize(
    ("available", "capability", "expected"),
    [
        (False, (0, 0), "there is no CUDA device here"),
        (True, (7, 5), "T4 has compute capability 7.5"),
        (True, (8, 0), ""),
        (True, (9, 0), ""),
    ],
)
def test_what_the_device_lacks(
    monkeypatch: pytest.MonkeyPatch, available: bool, capability: tuple[int, int], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "T4")
    assert missing_support() == expected


def test_conversion_without_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RunError, match=r"need a CUDA device of compute capability 8.0 or newer: there is no CUDA") as e:
        converted(pruned(8, 8, 4), ["0"])
    assert "the zeros are in place" in e.value.problem.repair


@pytest.mark.gpu
def test_conversion_on_the_device() -> None:
    model = pruned(128, 256, 64, 8)
    calls = [Call.of(torch.randn(32, 128))]
    done = convert_and_check(model, ["0", "2"], calls)
    assert (done.layers, done.refused) == (["0", "2"], {})
    assert done.difference < 1e-2
    half = converted(model, ["0", "2"])
    assert type(half[0].weight.data).__name__.startswith("SparseSemiStructured")
    with torch.no_grad():
        assert half(torch.randn(32, 128, device="cuda", dtype=torch.float16)).shape == (32, 8)
