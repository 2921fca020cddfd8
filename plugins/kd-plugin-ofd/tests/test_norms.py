"""Which normalisations have a margin for each channel."""

from __future__ import annotations

import pytest
import torch
from kd_plugin_ofd.loss import OFDLoss
from torch import Tensor, nn

from kdcore.contracts import Facts, TensorFacts, set_up

CHANNELS = 4


class Frozen(nn.Module):
    """A batch norm whose numbers are buffers, as detectors have it."""

    running_mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("weight", "running_var"):
            self.register_buffer(name, torch.ones(CHANNELS))
        for name in ("bias", "running_mean"):
            self.register_buffer(name, torch.zeros(CHANNELS))


def maps() -> dict[str, Tensor]:
    return {name: torch.randn(2, CHANNELS, 3, 3) for name in ("student", "teacher")}


OTHERS = [nn.LayerNorm(CHANNELS), nn.GroupNorm(CHANNELS, CHANNELS), nn.GroupNorm(2, CHANNELS), nn.Linear(3, CHANNELS)]


@pytest.mark.parametrize("norm", OTHERS, ids=str)
def test_what_does_not_normalise_channels_is_refused(norm: nn.Module) -> None:
    pattern = f"norm is a {type(norm).__name__}; a batch norm is needed"
    with pytest.raises(ValueError, match=pattern):
        OFDLoss()(**maps(), norm=norm)
    facts = Facts(inputs={**{name: TensorFacts.of(each) for name, each in maps().items()}, "norm": norm})
    with pytest.raises(ValueError, match=pattern):
        set_up(OFDLoss(), facts)


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(CHANNELS), nn.BatchNorm2d(CHANNELS, affine=False), nn.SyncBatchNorm(CHANNELS), Frozen()],
    ids=lambda norm: type(norm).__name__,
)
def test_batch_norms_of_every_kind_are_taken(norm: nn.Module) -> None:
    assert OFDLoss()(**maps(), norm=norm).isfinite()


def test_frozen_and_trained_batch_norms_have_one_margin() -> None:
    inputs = maps()
    assert torch.equal(OFDLoss()(**inputs, norm=Frozen()), OFDLoss()(**inputs, norm=nn.BatchNorm2d(CHANNELS)))
