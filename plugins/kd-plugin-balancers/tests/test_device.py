"""On the meta device a tensor has no value, so whatever would wait for one raises."""

import pytest
import torch
from kd_plugin_balancers.dwa import DWABalancer
from kd_plugin_balancers.schedule import ScheduleBalancer
from kd_plugin_balancers.static import StaticBalancer
from kd_plugin_balancers.uncertainty import UncertaintyBalancer
from kd_plugin_balancers.weighted_sum import WeightedSumBalancer

TERMS = {"kd": 1.0, "ce": 1.0}


@pytest.mark.parametrize(
    "balancer",
    [
        WeightedSumBalancer(TERMS),
        StaticBalancer(TERMS, task_term="ce"),
        UncertaintyBalancer(TERMS),
        DWABalancer(TERMS),
        ScheduleBalancer(TERMS, schedules={"kd": {"kind": "linear", "start": 1.0, "end": 0.0}}),
    ],
    ids=lambda balancer: type(balancer).__name__,
)
def test_a_step_never_waits_for_the_device(balancer):
    balancer.to("meta")
    for epoch in range(3):
        if hasattr(balancer, "progress"):
            balancer.progress(epoch, 3, epoch)
        total = balancer({name: torch.ones((), device="meta", requires_grad=True) for name in TERMS})
        total.backward()
        assert (total.shape, total.device.type) == ((), "meta")
