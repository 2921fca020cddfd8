"""The Pruner in a loop of one's own."""

import copy
import io

import pytest
import torch
from torch import nn

from kdcore import Pruner
from kdcore.errors import RunError
from kdcore.pruning import PruningGroup, Sparsity

CRITERIA = ["magnitude", "gradient", "snip", "snip_momentum", "snip_momentum_block", "retrain_free", "random"]
CUBIC = {"type": "cubic", "start": 2, "end": 12, "every": 2}


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def zeros(model, name):
    weight = model.get_parameter(f"{name}.weight")
    return float((weight == 0).double().mean())


@pytest.mark.parametrize("pattern", ["1x1", "4x1", "2:4", "1xchannel", "channelx1", "filter", "input_channel"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_weights_are_as_sparse_as_asked_and_stay_so(network, train, criterion, pattern):
    if pattern == "2:4" and criterion in ("snip_momentum_block", "retrain_free"):
        pytest.skip("they score blocks")
    group = {"criterion": criterion, "pattern": pattern, "target_sparsity": 0.5, "scope": "local", "schedule": CUBIC}
    pruner = Pruner(network, group, total_steps=20, example_inputs=torch.randn(2, 4, 4, 4))
    train(network, pruner, sgd(network), 20)
    assert pruner.completed
    assert pruner.sparsity() == Sparsity(0.5, {"0": 0.5, "4": 0.5})
    for layer in pruner.layers:
        (part,) = layer.parts
        assert int((~part.mask).sum()) == layer.weights / 2
        assert part.parameter[~part.mask].abs().max() == 0


def test_momentum_cannot_revive_a_weight(network, train):
    pruner = Pruner(network, {"target_sparsity": 0.5, "schedule": {"type": "one_shot", "start": 3}})
    optimizer = sgd(network)
    train(network, pruner, optimizer, 4)
    gone = network[4].weight == 0
    # Its momentum goes on from before, and would move it.
    assert optimizer.state[network[4].weight]["momentum_buffer"][gone].abs().max() > 0
    train(network, pruner, optimizer, 10, first=4)
    assert torch.equal(network[4].weight == 0, gone)


def test_it_follows_the_schedule(network, train):
    pruner = Pruner(network, {"target_sparsity": 0.8, "schedule": {"type": "linear", "start": 0, "end": 8, "every": 2}})
    seen, optimizer = [], sgd(network)
    for step in range(10):
        train(network, pruner, optimizer, 1, first=step)
        seen.append(round(pruner.sparsity().total, 3))
        assert pruner.completed == (step >= 8)
    assert seen == pytest.approx([0, 0, 0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8, 0.8], abs=1e-3)


def test_masks_are_made_from_the_gradient_of_the_same_step(network):
    pruner = Pruner(network, {"criterion": "gradient", "target_sparsity": 0.5, "schedule": "one_shot"})
    network(torch.randn(8, 4, 4, 4)).square().sum().backward()
    gradients = [network[0].weight.grad.abs(), network[4].weight.grad.abs()]
    pruner.before_optimizer()
    threshold = torch.cat([each.flatten() for each in gradients]).sort().values[(288 + 2048) // 2 - 1]
    for layer, gradient in zip(pruner.layers, gradients, strict=True):
        mask = layer.parts[0].mask
        assert torch.equal(mask if mask is not None else gradient >= 0, gradient > threshold)


@pytest.mark.parametrize("criterion", [*CRITERIA, {"type": "retrain_free", "params": {"rearrange": True}}])
@pytest.mark.parametrize("pattern", ["4x1", "filter"])
@pytest.mark.parametrize("masks", ["recomputed", "frozen"])
def test_stopping_anywhere_and_resuming_changes_no_bit(network, train, criterion, pattern, masks):
    group = {"criterion": criterion, "pattern": pattern, "masks": masks, "target_sparsity": 0.7, "schedule": CUBIC}

    def start():
        model = copy.deepcopy(network)
        return model, Pruner(model, group, total_steps=16, example_inputs=torch.randn(2, 4, 4, 4)), sgd(model)

    straight = start()
    train(*straight, 16)
    for stop in (1, 3, 7, 13):
        first = start()
        train(*first, stop)
        file = io.BytesIO()
        torch.save([each.state_dict() for each in first], file)
        file.seek(0)
        second = start()
        for part, state in zip(second, torch.load(file, weights_only=True), strict=True):
            part.load_state_dict(state)
        assert second[1].sparsity() == first[1].sparsity()
        train(*second, 16 - stop, first=stop)
        for one, other in zip(straight[0].state_dict().values(), second[0].state_dict().values(), strict=True):
            assert torch.equal(one, other)
        assert second[1].sparsity() == straight[1].sparsity()


def test_frozen_masks_only_grow(network, train):
    group = {"criterion": "gradient", "target_sparsity": 0.8, "schedule": {"start": 0, "end": 10, "every": 1}}
    for masks, grows in (("frozen", True), ("recomputed", False)):
        model = copy.deepcopy(network)
        pruner, optimizer = Pruner(model, {**group, "masks": masks}), sgd(model)
        gone, grew = torch.zeros_like(model[4].weight, dtype=torch.bool), []
        for step in range(11):
            train(model, pruner, optimizer, 1, first=step)
            now = model[4].weight == 0
            grew.append(bool((now | ~gone).all()))
            gone = now
        assert all(grew) == grows
        assert pruner.sparsity().total == pytest.approx(0.8, abs=1e-3)


def test_frozen_masks_of_n_of_m_keep_the_weights_of_each_group(network, train):
    group = {"criterion": "gradient", "pattern": "2:4", "masks": "frozen", "target_sparsity": 0.5}
    pruner = Pruner(network, {**group, "schedule": {"type": "linear", "start": 0, "end": 4, "every": 1}})
    optimizer, gone = sgd(network), None
    for step in range(5):
        train(network, pruner, optimizer, 1, first=step)
        now = network[4].weight == 0
        assert gone is None or bool((now | ~gone).all())
        gone = now
    assert (gone.reshape(16, 32, 4).sum(-1) == 2).all()


def test_locked_keeps_the_zeros_there_are(network, train):
    with torch.no_grad():
        network[4].weight.mul_(torch.rand(16, 128, generator=torch.Generator().manual_seed(0)) > 0.6)
    gone = network[4].weight == 0
    pruner = Pruner(network, {"schedule": "locked"})
    train(network, pruner, sgd(network), 5)
    assert torch.equal(network[4].weight == 0, gone)
    assert pruner.sparsity().layers == {"0": 0.0, "4": pytest.approx(float(gone.double().mean()))}
    assert pruner.completed


def test_a_sparse_model_goes_on_from_where_it_is(network, train):
    first = Pruner(network, {"target_sparsity": 0.5, "schedule": "one_shot"})
    optimizer = sgd(network)
    train(network, first, optimizer, 1)
    second = Pruner(network, {"target_sparsity": 0.8, "schedule": {"type": "linear", "start": 0, "end": 3, "every": 1}})
    seen = []
    for step in range(4):
        train(network, second, optimizer, 1, first=step)
        seen.append(second.sparsity().total)
    assert seen == pytest.approx([0.5, 0.6, 0.7, 0.8], abs=1e-3)


def test_one_line_hooks_an_optimizer(network):
    plain, hooked = copy.deepcopy(network), copy.deepcopy(network)
    group = {"criterion": "snip", "target_sparsity": 0.5, "schedule": {"start": 0, "end": 4, "every": 1}}
    pruners = [Pruner(plain, group), Pruner(hooked, group)]
    optimizers = [sgd(plain), sgd(hooked)]
    handle = pruners[1].attach(optimizers[1])
    for step in range(6):
        x = torch.randn(8, 4, 4, 4, generator=torch.Generator().manual_seed(step))
        for model, optimizer in zip((plain, hooked), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().mean().backward()
        pruners[0].before_optimizer()
        optimizers[0].step()
        pruners[0].after_optimizer()
        optimizers[1].step()
    assert torch.equal(plain[4].weight, hooked[4].weight)
    assert pruners[0].step == pruners[1].step == 6
    handle.remove()
    optimizers[1].step()
    assert pruners[1].step == 6
    assert zeros(hooked, "4") < 0.5


def test_several_groups(network, train):
    groups = [
        {"pattern": "filter", "include": ["0"], "target_sparsity": 0.25, "schedule": "one_shot"},
        PruningGroup.from_mapping({"pattern": "2:4", "exclude": ["0"], "target_sparsity": 0.5, "schedule": "one_shot"}),
    ]
    pruner = Pruner(network, groups)
    train(network, pruner, sgd(network), 2)
    assert pruner.sparsity().layers == {"0": 0.25, "4": 0.5}
    assert [layer.pattern for layer in pruner.layers] == ["filter", "2:4"]
    assert [(layer.group, layer.target) for layer in pruner.layers] == [(0, 0.25), (1, 0.5)]


def test_a_masked_filter_is_zero_after_its_normalisation(network, train):
    group = {"pattern": "filter", "include": ["0"], "target_sparsity": 0.5, "schedule": "one_shot"}
    pruner = Pruner(network, group, example_inputs=torch.randn(2, 4, 4, 4))
    assert [part.name for part in pruner.layers[0].coupled] == ["0.bias", "1.weight", "1.bias"]
    train(network, pruner, sgd(network), 5)
    kept = pruner.layers[0].kept
    out = network[1](network[0](torch.randn(3, 4, 4, 4)))
    assert out[:, ~kept].abs().max() == 0
    assert out[:, kept].abs().amax(dim=(0, 2, 3)).min() > 0


def test_without_an_example_only_biases_go_with_filters_and_that_is_said(network):
    pruner = Pruner(network, {"pattern": "filter", "target_sparsity": 0.5, "schedule": "one_shot"})
    assert [part.name for layer in pruner.layers for part in layer.coupled] == ["0.bias", "4.bias"]
    assert any("without example inputs" in each for each in pruner.messages)


def test_buffers_have_the_dtype_asked_for(network, train):
    network = network.double()
    for dtype, expected in (("float32", torch.float32), ("weights", torch.float64)):
        pruner = Pruner(
            network, {"criterion": "snip_momentum", "target_sparsity": 0.5, "dtype": dtype, "schedule": "one_shot"}
        )
        network(torch.randn(8, 4, 4, 4).double()).sum().backward()
        pruner.before_optimizer()
        scores = pruner.state_dict()["groups"][0]["criterion"]["scores"]
        assert {each.dtype for each in scores.values()} == {expected}


def test_weights_without_gradient_are_passed_over_and_said_once(network):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.fc = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.fc(self.used(x))

    model = Twice()
    pruner = Pruner(model, {"criterion": "snip_momentum", "target_sparsity": 0.5, "schedule": {"end": 3, "every": 1}})
    for _ in range(4):
        model(torch.randn(4, 8)).sum().backward()
        pruner.before_optimizer()
        pruner.after_optimizer()
    assert pruner.sparsity().layers == {"used": 0.5, "unused": 0.0}
    assert [each for each in pruner.messages if "no gradient" in each] == [
        "pruning by 'snip_momentum' passes over weights that have no gradient: unused.weight"
    ]


def test_no_gradient_at_all_is_an_error(network):
    pruner = Pruner(network, {"criterion": "snip", "target_sparsity": 0.5, "schedule": "one_shot"})
    with pytest.raises(RunError, match=r"pruning.criterion: pruning by 'snip' needs gradients[\s\S]*call backward"):
        pruner.before_optimizer()


def test_scores_that_are_not_finite_are_an_error(network):
    pruner = Pruner(network, {"criterion": "snip", "target_sparsity": 0.5, "schedule": "one_shot"})
    (network(torch.randn(2, 4, 4, 4)).sum() * float("nan")).backward()
    with pytest.raises(RunError, match=r"gave scores that are not finite for 0\.weight"):
        pruner.before_optimizer()


def test_a_criterion_with_scores_of_a_wrong_shape_is_an_error(network, fixed):
    criterion = fixed({"0": torch.zeros(3), "4": torch.zeros(3)})
    pruner = Pruner(network, {"criterion": criterion, "target_sparsity": 0.5, "schedule": "one_shot"})
    with pytest.raises(
        RunError, match=r"Fixed.*shape \(3,\) for 0.weight; they must have the weight's, \(8, 4, 3, 3\)"
    ):
        pruner.before_optimizer()


def test_a_state_of_other_layers_is_an_error(network):
    group = {"target_sparsity": 0.5, "schedule": "one_shot"}
    state = Pruner(network, {**group, "exclude": ["0"]}).state_dict()
    with pytest.raises(RunError, match="the saved pruning state is of other layers: 0"):
        Pruner(network, group).load_state_dict(state)
    with pytest.raises(RunError, match="has 1 groups, this Pruner 2"):
        Pruner(network, [{**group, "include": ["0"]}, {**group, "include": ["4"]}]).load_state_dict(state)


def test_nothing_is_changed_by_looking(network):
    before = copy.deepcopy(network.state_dict())
    example = torch.randn(2, 4, 4, 4)
    random = torch.get_rng_state()
    network.train()
    Pruner(network, {"pattern": "filter", "target_sparsity": 0.5}, total_steps=10, example_inputs=example)
    assert network.training
    assert torch.equal(random, torch.get_rng_state())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
