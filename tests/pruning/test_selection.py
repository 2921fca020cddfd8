"""Exactly as many blocks as asked, the lowest first, within each layer's limits."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore import Pruner
from kdcore.pruning.selection import Limits, Stock, global_counts, local_counts, lowest
from kdcore.pruning.threshold import Pool, kth_smallest

ONE_SHOT = {"type": "one_shot"}


def prune(model, scores, fixed, **group):
    pruner = Pruner(model, {"criterion": fixed(scores), "schedule": ONE_SHOT, "prune_classifier": True, **group})
    pruner.before_optimizer()
    return pruner, {layer.name: layer.parts[0].mask for layer in pruner.layers}


def test_masks_of_neural_compressor(golden, three, fixed):
    compared = 0
    for case in golden["masks"]:
        # Its global budget counts blocks, ours weights: the same where all blocks have one size.
        if case["pattern"] == "1xchannel" and case["scope"] == "global":
            continue
        _, masks = prune(
            three,
            case["scores"],
            fixed,
            pattern=case["pattern"],
            scope=case["scope"],
            target_sparsity=case["target"],
            max_sparsity=0.98,
        )
        for name, expected in case["masks"].items():
            found = masks[name] if masks[name] is not None else torch.ones_like(expected)
            assert torch.equal(found, expected), (case["pattern"], case["scope"], name)
        compared += 1
    assert compared == 12


def test_blocks_of_different_sizes_share_a_budget_of_weights(golden, three, fixed):
    (case,) = (each for each in golden["masks"] if each["pattern"] == "1xchannel" and each["scope"] == "global")
    pruner, masks = prune(three, case["scores"], fixed, pattern="1xchannel", target_sparsity=0.25)
    theirs = sum(int((~each).sum()) for each in case["masks"].values())
    ours = sum(int((~each).sum()) for each in masks.values())
    assert theirs == 104
    # 120 of 480 weights may go; the next block, of 16 or of 4, would be too much or is not the next in order.
    assert 104 <= ours <= 120
    assert pruner.sparsity().total == ours / 480


def test_ties_never_take_more_than_asked(three, fixed):
    scores = {"fc1": torch.zeros(8, 16), "conv": torch.zeros(8, 36), "fc2": torch.zeros(8, 8)}
    pruner, masks = prune(three, scores, fixed, target_sparsity=0.3)
    assert sum(int((~each).sum()) for each in masks.values() if each is not None) == 144
    # The first layer gives what it may, 0.98 of it, and the next the rest.
    assert pruner.sparsity().layers == {"fc1": 125 / 128, "conv": 19 / 288, "fc2": 0.0}


def test_ties_are_broken_by_position():
    scores = torch.tensor([2.0, 1.0, 1.0, 3.0, 1.0, 1.0])
    assert lowest(scores, 2).tolist() == [False, True, True, False, False, False]
    assert lowest(scores, 5).tolist() == [True, True, True, False, True, True]
    assert lowest(scores, 0).tolist() == [False] * 6
    assert lowest(scores, 6).tolist() == [True] * 6


def by_sorting(scores, stocks, sparsity, limits):
    """The choice that its definition says, by going through everything in order."""
    left = int(sparsity * sum(each.weights for each in stocks) + 1e-9)
    left -= sum(low * stock.size for low, stock in zip(limits.low, stocks, strict=True))
    counts = list(limits.low)
    entries = []
    for index, each in enumerate(scores):
        ranked = sorted(each.tolist())
        entries += [(value, index) for value in ranked[limits.low[index] : limits.high[index]]]
    for _, index in sorted(entries):
        if stocks[index].size > left:
            break
        left -= stocks[index].size
        counts[index] += 1
    return counts


@settings(max_examples=200, deadline=None)
@given(
    layers=st.lists(
        st.tuples(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.sampled_from([1, 2, 5])),
        min_size=1,
        max_size=4,
    ),
    equal=st.booleans(),
    sparsity=st.floats(0, 0.99),
    least=st.floats(0, 0.5),
    most=st.floats(0.5, 1),
)
def test_the_global_choice_is_the_one_by_definition(layers, equal, sparsity, least, most):
    scores = [torch.tensor(values, dtype=torch.float32) for values, _ in layers]
    stocks = [Stock(len(values), 1 if equal else size, len(values) * (1 if equal else size)) for values, size in layers]
    limits = Limits.of(stocks, sparsity, min(least, sparsity), most, final=False)
    found, threshold = global_counts(scores, stocks, sparsity, limits)
    assert found == by_sorting(scores, stocks, sparsity, limits)
    total = sum(each.weights for each in stocks)
    assert sum(n * each.size for n, each in zip(found, stocks, strict=True)) <= sparsity * total + 1e-6
    assert all(low <= n <= high for low, n, high in zip(limits.low, found, limits.high, strict=True))
    for each, count in zip(scores, found, strict=True):
        marked = lowest(each, count)
        assert torch.equal(marked, lowest(each, count, threshold))
        assert int(marked.sum()) == count
        order = each.argsort(stable=True)
        assert marked[order[:count]].all()


def test_both_limits_hold_and_the_total_is_exact(three, fixed):
    # Everything would come from fc1, and nothing from fc2.
    scores = {"fc1": torch.rand(8, 16), "conv": 1 + torch.rand(8, 36), "fc2": 5 + torch.rand(8, 8)}
    pruner, _ = prune(three, scores, fixed, target_sparsity=0.5, min_sparsity=0.25, max_sparsity=0.75)
    assert pruner.sparsity().layers == {"fc1": 0.75, "conv": (240 - 96 - 16) / 288, "fc2": 0.25}
    assert pruner.sparsity().total == 0.5


def test_on_the_way_the_minimum_is_no_more_than_the_schedule():
    stocks = [Stock(100, 1, 100)] * 2
    assert Limits.of(stocks, 0.1, 0.3, 0.9, final=False) == Limits((10, 10), (90, 90))
    assert Limits.of(stocks, 0.5, 0.3, 0.9, final=True) == Limits((30, 30), (90, 90))


@pytest.mark.parametrize(("sparsity", "count"), [(0.29, 29), (0.57, 57), (0.1 + 0.2, 30), (0.999, 99), (1 / 3, 33)])
def test_shares_mean_what_they_say(sparsity, count):
    assert Stock(100, 1, 100).at_most(sparsity) == count


def test_local_scope_makes_every_layer_as_sparse():
    stocks = [Stock(10, 4, 40), Stock(7, 4, 28)]
    limits = Limits.of(stocks, 0.5, 0, 0.98, final=True)
    assert local_counts(stocks, 0.5, limits) == [5, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_kth_smallest(dtype):
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    for k in (1, 2, 500, 999, 1000):
        pool = Pool([values[:300].reshape(30, 10), values[300:]])
        assert kth_smallest(pool.vector, k) == values.double().sort().values[k - 1]


def test_narrowing_keeps_the_middle_of_each_layer():
    generator = torch.Generator().manual_seed(1)
    scores = [torch.randn(size, generator=generator) for size in (7, 1, 20, 5)]
    for low, high in itertools.product(([0, 0, 3, 5], [2, 1, 0, 1]), ([7, 1, 18, 5], [4, 1, 9, 5])):
        expected = [each.sort().values[least:most] for each, least, most in zip(scores, low, high, strict=True)]
        found = Pool(scores).narrow(low, high)
        torch.testing.assert_close(found.sort().values, torch.cat(expected).sort().values)
