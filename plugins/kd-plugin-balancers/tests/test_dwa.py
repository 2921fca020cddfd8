import math
import subprocess
import sys

import pytest
import torch
from kd_plugin_balancers.dwa import DWABalancer

WEIGHTS = {"ce": 1.0, "kd": 0.5, "student.aux": None}
EPOCHS = [
    [(1.0, 2.0, 3.0), (0.9, 2.5, 3.0)],
    [(0.5, 2.0, 2.0), (0.4, 1.5, 2.5)],
    [(0.3, 1.5, 0.2), (0.2, 1.5, 0.1)],
    [(0.1, 0.5, 0.1), (0.1, 0.4, 0.2)],
]


def expected_factors(epochs, temperature):
    """The weights of the epoch after `epochs`, by the paper's equation 7."""
    if len(epochs) < 2:
        return [1.0] * len(WEIGHTS)
    last, before = ([sum(each) / len(each) for each in zip(*epoch, strict=True)] for epoch in (epochs[-1], epochs[-2]))
    powers = [math.exp(new / old / temperature) for new, old in zip(last, before, strict=True)]
    return [len(powers) * power / sum(powers) for power in powers]


def named(values):
    return {name: torch.tensor(value, requires_grad=True) for name, value in zip(WEIGHTS, values, strict=True)}


def train(balancer, epochs, first=0):
    """Run whole epochs and return the total of every step."""
    totals, step = [], 2 * first
    for epoch, steps in enumerate(epochs, start=first):
        for values in steps:
            balancer.progress(step, 8, epoch)
            totals.append(balancer(named(values)).item())
            step += 1
    return totals


@pytest.mark.parametrize("temperature", [2.0, 0.5])
def test_the_equation(temperature):
    totals = train(DWABalancer(WEIGHTS, temperature=temperature), EPOCHS)
    expected = []
    for epoch, steps in enumerate(EPOCHS):
        ce, kd, aux = expected_factors(EPOCHS[:epoch], temperature)
        expected += [ce * values[0] + kd * 0.5 * values[1] + aux * values[2] for values in steps]
    assert totals == pytest.approx(expected, rel=1e-6)


def test_the_gradient_is_the_weight(slopes):
    balancer = DWABalancer(WEIGHTS)
    train(balancer, EPOCHS[:2])
    balancer.progress(4, 8, 2)
    terms = named((1.0, 1.0, 1.0))
    factors = expected_factors(EPOCHS[:2], 2.0)
    found = slopes(balancer(terms), terms)
    assert list(found.values()) == pytest.approx([factors[0], factors[1] / 2, factors[2]], rel=1e-6)


def test_stopping_anywhere_and_resuming_changes_nothing():
    straight = train(DWABalancer(WEIGHTS), EPOCHS)
    steps = [(epoch, values) for epoch, each in enumerate(EPOCHS) for values in each]
    for stop in range(1, len(steps)):
        balancer, totals = DWABalancer(WEIGHTS), []
        for step, (epoch, values) in enumerate(steps):
            if step == stop:
                saved = {name: value.clone() for name, value in balancer.state_dict().items()}
                balancer = DWABalancer(WEIGHTS)
                balancer.load_state_dict(saved)
            balancer.progress(step, 8, epoch)
            totals.append(balancer(named(values)).item())
        assert totals == straight


def test_being_told_twice_changes_nothing():
    once, twice = DWABalancer(WEIGHTS), DWABalancer(WEIGHTS)
    train(once, EPOCHS[:3])
    for epoch, steps in enumerate(EPOCHS[:3]):
        for values in steps:
            twice.progress(0, 8, epoch)
            twice.progress(0, 8, epoch)
            twice(named(values))
    torch.testing.assert_close(once.state_dict(), twice.state_dict())


def test_only_training_with_gradient_is_recorded():
    balancer = DWABalancer(WEIGHTS)
    with torch.no_grad():
        balancer(named((1.0, 1.0, 1.0)))
    balancer.eval()(named((1.0, 1.0, 1.0)))
    assert balancer.counts.tolist() == [0, 0, 0]
    balancer.train()(named((1.0, 2.0, 3.0)))
    assert balancer.counts.tolist() == [1, 1, 1]
    assert balancer.sums.tolist() == [1, 2, 3]


def test_an_epoch_without_steps_changes_nothing():
    balancer = DWABalancer(WEIGHTS)
    train(balancer, EPOCHS[:3])
    balancer.progress(6, 8, 3)
    before = {name: value.clone() for name, value in balancer.state_dict().items() if name != "epoch"}
    balancer.progress(6, 8, 4)
    after = {name: value for name, value in balancer.state_dict().items() if name != "epoch"}
    torch.testing.assert_close(before, after)


def test_values_that_are_not_finite_are_left_out():
    balancer = DWABalancer(WEIGHTS)
    spoilt = [[(math.inf, 1.0, 1.0), (2.0, 1.0, math.nan)], [(1.0, 1.0, 1.0)], [(1.0, 1.0, 1.0)]]
    train(balancer, spoilt)
    clean = DWABalancer(WEIGHTS)
    train(clean, [[(2.0, 1.0, 1.0)], [(1.0, 1.0, 1.0)], [(1.0, 1.0, 1.0)]])
    torch.testing.assert_close(balancer.factors, clean.factors)
    assert balancer.factors.isfinite().all()


def test_terms_at_zero_and_beyond_measure_stay_finite():
    balancer = DWABalancer(WEIGHTS)
    train(balancer, [[(0.0, 0.0, 1e-30)], [(0.0, 1.0, 1e30)], [(0.0, 1.0, 1.0)]])
    assert balancer.factors.isfinite().all()
    assert balancer.factors.sum().item() == pytest.approx(3)


def test_one_term_always_has_its_own_weight():
    balancer = DWABalancer({"kd": 0.5})
    for epoch, value in enumerate((4.0, 2.0, 1.0, 3.0)):
        balancer.progress(epoch, 4, epoch)
        assert balancer({"kd": torch.tensor(value, requires_grad=True)}) == 0.5 * value


def test_every_tensor_of_its_state_has_a_dimension():
    state = DWABalancer(WEIGHTS).state_dict()
    assert set(state) == {"factors", "sums", "counts", "means", "epoch"}
    assert all(value.dim() for value in state.values())
    assert state["sums"].dtype == state["means"].dtype == torch.float64


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_the_temperature_is_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be above 0"):
        DWABalancer(WEIGHTS, temperature=temperature)


WORKER = """
import sys, torch
from kd_plugin_balancers.dwa import DWABalancer
from kdcore.contracts import Facts
rank, store = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
balancer = DWABalancer({"a": 1, "b": 1})
balancer.setup(Facts(num_processes=2))
values = [[(4.0, 1.0), (2.0, 1.0)], [(2.0, 1.0), (2.0, 3.0)], [(1.0, 1.0), (1.0, 1.0)]]
for epoch, each in enumerate(values):
    balancer.progress(epoch, 3, epoch)
    balancer({name: torch.tensor(value, requires_grad=True) for name, value in zip("ab", each[rank])})
print(*balancer.means.flatten().tolist(), *balancer.factors.tolist())
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_the_means_of_all_processes_are_joined(tmp_path):
    command = [sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=120)[0].split() for worker in workers]
    assert outputs[0] == outputs[1]
    assert [worker.returncode for worker in workers] == [0, 0]
    numbers = [float(number) for number in outputs[0]]
    assert numbers[:4] == [2.0, 2.0, 3.0, 1.0]
    powers = [math.exp(2 / 3 / 2), math.exp(2 / 1 / 2)]
    assert numbers[4:] == pytest.approx([2 * power / sum(powers) for power in powers], rel=1e-6)
