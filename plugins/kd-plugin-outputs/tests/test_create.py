import pytest
import torch

import kdcore

A, LOSS = torch.zeros(2, 3), torch.tensor(0.5)


@pytest.mark.parametrize(
    ("name", "params", "output"),
    [
        ("auto", {}, A),
        ("item", {"key": "features"}, {"features": A}),
        ("item", {"index": -1}, (LOSS, A)),
        ("model_losses", {}, {"loss": LOSS, "logits": A}),
    ],
)
def test_every_extractor_can_be_built_by_hand(name, params, output):
    assert kdcore.create("output_extractor", name, **params)(output, {}).value is A


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("auto", {"key": "logits"}, "unknown parameter 'key'"),
        ("item", {"key": 3}, "must be text or null, found 3"),
        ("item", {"index": 0.5}, "must be a whole number or null"),
    ],
)
def test_params_are_checked(name, params, message):
    with pytest.raises(kdcore.KdcoreError, match=message):
        kdcore.create("output_extractor", name, **params)
