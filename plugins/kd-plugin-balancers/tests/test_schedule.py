import math

import pytest
import torch
from kd_plugin_balancers.curve import Curve
from kd_plugin_balancers.schedule import ScheduleBalancer

HALF = {"kind": "linear", "start": 1.0, "end": 0.0}


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        (HALF, {0: 1, 0.25: 0.75, 0.5: 0.5, 1: 0}),
        ({"kind": "linear", "start": 2, "end": 4, "from": 0.25, "to": 0.75}, {0: 2, 0.25: 2, 0.5: 3, 0.75: 4, 1: 4}),
        ({"kind": "cosine", "start": 1, "end": 0}, {0: 1, 0.25: (1 + math.cos(math.pi / 4)) / 2, 0.5: 0.5, 1: 0}),
        ({"kind": "cosine", "start": 0, "end": 2, "to": 0.5}, {0: 0, 0.25: 1, 0.5: 2, 0.75: 2}),
        ({"kind": "step", "start": 0, "end": 3, "from": 0.5}, {0: 0, 0.49: 0, 0.5: 3, 1: 3}),
        ({"kind": "constant", "start": 0.5}, {0: 0.5, 0.3: 0.5, 1: 0.5}),
    ],
)
def test_curves(spec, values):
    curve = Curve.read(spec)
    assert {progress: curve.at(progress) for progress in values} == pytest.approx(values, abs=1e-12)


def test_the_weight_of_the_config_times_the_curve(scalars, slopes):
    balancer = ScheduleBalancer({"ce": 0.5, "kd": 4.0, "student.aux": None}, schedules={"kd": HALF})
    terms = scalars({"ce": 2, "kd": 3, "student.aux": 5})
    for step, factor in ((0, 1.0), (25, 0.75), (100, 0.0)):
        balancer.progress(step, 100, 0)
        total = balancer(terms)
        assert slopes(total, terms) == {"ce": 0.5, "kd": 4 * factor, "student.aux": 1}
        assert total == 0.5 * 2 + 4 * factor * 3 + 5


def test_it_starts_at_the_start(scalars):
    spec = {"kind": "linear", "start": 0.25, "end": 1.0}
    assert ScheduleBalancer({"kd": 2.0}, schedules={"kd": spec})(scalars({"kd": 1})) == 0.5


def test_losses_of_the_model_have_schedules_too(scalars):
    balancer = ScheduleBalancer({"kd": 1, "student.aux": None}, schedules={"student.aux": HALF})
    balancer.progress(1, 2, 0)
    assert balancer(scalars({"kd": 1, "student.aux": 4})) == 3


def test_the_state_brings_back_the_moment(scalars):
    balancer = ScheduleBalancer({"kd": 1, "ce": 1}, schedules={"kd": HALF})
    balancer.progress(3, 4, 0)
    other = ScheduleBalancer({"kd": 1, "ce": 1}, schedules={"kd": HALF})
    other.load_state_dict(balancer.state_dict())
    assert other(scalars({"kd": 1, "ce": 0})) == 0.25
    assert all(value.dim() for value in balancer.state_dict().values())


@pytest.mark.parametrize(
    ("schedules", "message"),
    [
        ({"kdd": HALF}, "schedule of kdd: there is no term 'kdd': did you mean 'kd'"),
        ({"kd": {"kind": "linear", "start": 1}}, "schedule of kd: linear needs 'end'"),
        ({"kd": {"kind": "step", "start": 1, "end": 0}}, "step needs 'from'"),
        ({"kd": {"kind": "step", "start": 1, "end": 0, "from": 0.5, "to": 0.6}}, "step has no 'to'"),
        ({"kd": {"kind": "constant", "start": 1, "end": 0}}, "constant has no 'end'; it takes start"),
        ({"kd": {**HALF, "from": 0.5, "to": 0.5}}, "'from' must be below 'to', found 0.5 and 0.5"),
        ({"kd": {**HALF, "end": float("nan")}}, "end must be a finite number, found nan"),
    ],
)
def test_schedules_that_make_no_sense(schedules, message):
    with pytest.raises(ValueError, match=message):
        ScheduleBalancer({"kd": 1, "ce": 1}, schedules=schedules)


@pytest.mark.parametrize("total_steps", [0, None, -1])
def test_it_needs_the_number_of_steps(total_steps):
    with pytest.raises(ValueError, match="needs the number of steps of the stage"):
        ScheduleBalancer({"kd": 1}, schedules={"kd": HALF}).progress(0, total_steps, 0)


def test_float32(scalars):
    balancer = ScheduleBalancer({"kd": 1}, schedules={"kd": HALF})
    assert balancer({"kd": torch.ones(())}).dtype == torch.float32
