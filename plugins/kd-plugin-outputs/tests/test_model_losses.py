import collections
import types

import pytest
import torch
from kd_plugin_outputs.model_losses import ModelLossesExtractor

A, B = torch.zeros(2, 3), torch.ones(2, 3)
LOSS, OTHER = torch.tensor(0.5), torch.tensor(2.0)


class ModelOutput(collections.OrderedDict):
    """Keys that are attributes too, as some libraries return them."""

    def __getattr__(self, name):
        return self.get(name)


def read(output):
    return ModelLossesExtractor()(output, {})


@pytest.mark.parametrize(
    ("output", "value", "named", "losses"),
    [
        ({"loss_box": LOSS, "loss_class": OTHER}, None, {}, {"loss_box": LOSS, "loss_class": OTHER}),
        ({"loss": LOSS, "aux": OTHER, "logits": A}, A, {}, {"loss": LOSS, "aux": OTHER}),
        ({"loss": LOSS, "x": B, "out": A, "n": 3}, A, {"x": B, "n": 3}, {"loss": LOSS}),
        ({"loss": LOSS, "features": A, "x": B}, A, {"x": B}, {"loss": LOSS}),
        ({"loss": LOSS, "boxes": torch.tensor(7)}, None, {"boxes": torch.tensor(7)}, {"loss": LOSS}),
        (ModelOutput(loss=LOSS, aux_loss=OTHER, logits=A), A, {"aux_loss": OTHER}, {"loss": LOSS}),
        (types.SimpleNamespace(loss=LOSS, logits=A, states=(B,)), A, {"states": (B,)}, {"loss": LOSS}),
        ((LOSS, A, B), A, {"2": B}, {"0": LOSS}),
        (LOSS, None, {}, {"loss": LOSS}),
    ],
    ids=str,
)
def test_losses_value_and_names(output, value, named, losses):
    extracted = read(output)
    assert extracted.value is value
    assert dict(extracted.named) == named
    assert dict(extracted.losses) == losses


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (A, "the output is a Tensor; there is no loss in it"),
        (ModelOutput(loss=None, aux_loss=OTHER, logits=A), r"only when they are given labels"),
        ([{"boxes": A}], r"a list with 0 \(dict of 1\); there is no loss"),
        ({"n": torch.tensor(3)}, "there is no loss"),
    ],
)
def test_training_without_a_loss_is_an_error(output, message):
    with pytest.raises(ValueError, match=message):
        read(output)


@pytest.mark.parametrize(
    ("output", "value", "named"),
    [
        (A, A, {}),
        (ModelOutput(logits=A, x=B), A, {"x": B}),
        ([{"boxes": A}], None, {"0": {"boxes": A}}),
    ],
    ids=["tensor", "object", "predictions"],
)
def test_without_gradient_predictions_are_read(output, value, named):
    with torch.no_grad():
        extracted = read(output)
    assert extracted.value is value
    assert dict(extracted.named) == named
    assert extracted.losses == {}
