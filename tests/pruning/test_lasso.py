"""The gradient of the group lasso."""

import torch

from kdcore import Pruner


def group(pattern):
    return {
        "pattern": pattern,
        "target_sparsity": 0.5,
        "group_lasso": 0.05,
        "schedule": {"start": 1, "end": 3, "every": 1},
    }


def test_it_is_the_gradient_of_the_sum_of_norms(three):
    for pattern in ("4x1", "1xchannel", "2x2", "filter", "input_channel", "1x1"):
        pruner = Pruner(three, {**group(pattern), "prune_classifier": True})
        for parameter in three.parameters():
            parameter.grad = torch.randn_like(parameter)
        before = {name: each.grad.clone() for name, each in three.named_parameters()}
        penalty = sum(
            part.blocks.sum(part.parameter.square()).sqrt().sum() for layer in pruner.layers for part in layer.parts
        )
        weights = [part.parameter for layer in pruner.layers for part in layer.parts]
        expected = torch.autograd.grad(0.05 * penalty, weights)
        pruner.before_optimizer()
        for layer, slope in zip(pruner.layers, expected, strict=True):
            name = f"{layer.name}.weight"
            torch.testing.assert_close(three.get_parameter(name).grad - before[name], slope, rtol=1e-9, atol=1e-12)
        assert torch.equal(three.fc1.bias.grad, before["fc1.bias"])


def test_it_divides_by_the_weights_norm_where_neural_compressor_divides_by_the_gradients(golden, three):
    case = golden["group_lasso"]
    pruner = Pruner(three, {**group("4x1"), "prune_classifier": True})
    with torch.no_grad():
        for name in ("fc1", "conv", "fc2"):
            weight = three.get_parameter(f"{name}.weight")
            weight.copy_(case["weights"][name])
            weight.grad = case["grads"][name].clone()
    pruner.before_optimizer()
    for layer in pruner.layers:
        blocks = layer.parts[0].blocks
        weight, gradient = case["weights"][layer.name], case["grads"][layer.name]
        theirs = case["coeff"] / blocks.sum(gradient.square()).sqrt()
        torch.testing.assert_close(theirs, case["reg_terms"][layer.name])
        ours = case["coeff"] / blocks.sum(weight.square()).sqrt()
        expected = gradient + weight * blocks.expand(ours)
        torch.testing.assert_close(layer.parts[0].parameter.grad, expected)


def test_a_block_of_zeros_gets_none(three):
    pruner = Pruner(three, group("4x1"))
    with torch.no_grad():
        three.fc1.weight[:4, 0] = 0
    for parameter in three.parameters():
        parameter.grad = torch.zeros_like(parameter)
    pruner.before_optimizer()
    assert three.fc1.weight.grad[:4, 0].abs().max() == 0
    assert three.fc1.weight.grad.isfinite().all()


def test_it_ends_with_the_schedule(three):
    pruner = Pruner(three, group("4x1"))
    for step in range(6):
        for parameter in three.parameters():
            parameter.grad = torch.zeros_like(parameter)
        pruner.before_optimizer()
        assert bool(three.fc1.weight.grad.any()) == (step <= 3)
        pruner.after_optimizer()


def test_it_pulls_blocks_towards_zero(network, train):
    norms = {}
    for coefficient in (0.0, 0.05):
        torch.manual_seed(0)
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        pruner = Pruner(
            network, {**group("4x1"), "group_lasso": coefficient, "schedule": {"start": 29, "end": 30, "every": 1}}
        )
        train(network, pruner, torch.optim.SGD(network.parameters(), lr=0.1), 29)
        norms[coefficient] = float(
            pruner.layers[1].parts[0].blocks.sum(network[4].weight.square()).sqrt().sum().detach()
        )
    assert norms[0.05] < 0.6 * norms[0.0]
