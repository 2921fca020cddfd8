"""On an accelerator the choice is the one made on the CPU."""

import copy

import pytest
import torch
from torch import nn

from kdcore import Pruner
from kdcore.pruning.selection import Limits, Stock, global_counts, lowest

CRITERIA = ["magnitude", "gradient", "snip", "snip_momentum", "snip_momentum_block", "retrain_free", "random"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_same_scores_make_the_same_choice(dtype):
    generator = torch.Generator().manual_seed(0)
    scores = [torch.rand(size, generator=generator).mul(50).round().to(dtype) for size in (1000, 10, 5000)]
    stocks = [Stock(len(each), 1, len(each)) for each in scores]
    limits = Limits.of(stocks, 0.7, 0.4, 0.75, final=True)
    (expected, _), (found, threshold) = (
        global_counts(each, stocks, 0.7, limits) for each in (scores, [score.cuda() for score in scores])
    )
    assert found == expected
    for each, count in zip(scores, expected, strict=True):
        assert torch.equal(lowest(each.cuda(), count, threshold).cpu(), lowest(each, count))


@pytest.mark.gpu
@pytest.mark.parametrize("criterion", CRITERIA)
def test_training_and_a_move_to_the_device(network, train, criterion):
    pruner = Pruner(network, {"criterion": criterion, "pattern": "filter", "target_sparsity": 0.5}, total_steps=20)
    moved = copy.deepcopy(network).cuda()
    on_device = Pruner(moved, {"criterion": criterion, "pattern": "filter", "target_sparsity": 0.5}, total_steps=20)
    on_device.load_state_dict(pruner.state_dict())
    optimizer = torch.optim.SGD(moved.parameters(), lr=0.05, momentum=0.9)
    on_device.attach(optimizer)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(
            moved(torch.randn(8, 4, 4, 4, device="cuda")), torch.zeros(8).long().cuda()
        ).backward()
        optimizer.step()
    assert on_device.completed
    assert 0.4 < on_device.sparsity().total <= 0.5
    for layer in on_device.layers:
        for part in (*layer.parts, *layer.coupled):
            assert part.mask is None or not part.parameter[~part.mask].any()
