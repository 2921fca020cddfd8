import pytest
import torch

import kdcore

HALF = {"kind": "linear", "start": 0.5, "end": 0.0}


@pytest.mark.parametrize(
    ("name", "params", "total"),
    [
        ("weighted_sum", {}, 8.0),
        ("static", {"task_term": "ce"}, 4.0),
        ("static", {"kd_loss_weight": [0.25], "task_term": "ce"}, 0.25 * 3 + 0.75 * 5),
        ("uncertainty", {}, 8.0),
        ("uncertainty", {"form": {"ce": "regression"}}, 5.5),
        ("dwa", {}, 8.0),
        ("schedule", {"schedules": {"ce": HALF}}, 5.5),
    ],
)
def test_every_balancer_can_be_built_by_hand(name, params, total):
    balancer = kdcore.create("balancer", name, terms={"kd": 1.0, "ce": 1.0}, **params)
    assert balancer({"kd": torch.tensor(3.0), "ce": torch.tensor(5.0)}).item() == pytest.approx(total)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("static", {"kd_loss_weight": 1.5}, "must be at most 1, found 1.5"),
        ("static", {"kd_loss_weight": []}, "must not be empty"),
        ("uncertainty", {"form": "gauss"}, "'classification', 'regression' or a mapping, found 'gauss'"),
        ("dwa", {"temperature": 0}, "must be above 0|greater than 0|more than 0"),
        ("schedule", {}, "missing parameter 'schedules'"),
        ("schedule", {"schedules": {"ce": {"kind": "lin", "start": 1}}}, "did you mean 'linear'"),
    ],
)
def test_params_are_checked(name, params, message):
    with pytest.raises(kdcore.KdcoreError, match=message):
        kdcore.create("balancer", name, terms={"kd": 1.0, "ce": 1.0}, **params)
