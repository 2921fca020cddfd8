"""From scores of weights to scores of blocks and back, against loops."""

import itertools

import numpy as np
import pytest
import torch

from kdcore.pruning import Pattern
from kdcore.pruning.layout import Layout, MisfitError

SHAPES = {"linear": (8, 12), "conv1d": (8, 4, 3), "conv2d": (8, 4, 3, 2), "conv3d": (8, 4, 2, 1, 3)}


def matrix(weight):
    """Rows of outputs; columns of taps, within each the inputs."""
    weight = weight.numpy()
    rows = []
    for output in weight:
        taps = itertools.product(*(range(size) for size in output.shape[1:]))
        rows.append([output[(channel, *tap)] for tap in taps for channel in range(output.shape[0])])
    return np.array(rows)


def by_loops(weight, rows, columns, how):
    found = matrix(weight)
    reduce = {"mean": np.mean, "sum": np.sum, "max": np.max}[how]
    return np.array(
        [
            [reduce(found[i : i + rows, j : j + columns]) for j in range(0, found.shape[1], columns)]
            for i in range(0, found.shape[0], rows)
        ]
    )


@pytest.mark.parametrize("how", ["mean", "sum", "max"])
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("pattern", ["1x1", "4x1", "1x4", "2x2", "8x4", "channelx1", "1xchannel"])
def test_blocks_of_rows_and_columns(kind, pattern, how):
    shape = SHAPES[kind]
    weight = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parsed = Pattern.parse(pattern)
    rows, columns = {"channelx1": (8, 1), "1xchannel": (1, shape[1])}.get(pattern, (parsed.rows, parsed.columns))
    blocks = Layout(shape).blocks(parsed, how)
    expected = by_loops(weight, rows, columns, how)
    assert blocks.shape == expected.shape
    assert (blocks.count, blocks.size) == (expected.size, rows * columns)
    np.testing.assert_allclose(blocks.reduce(weight).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(
        blocks.sum(weight).numpy(), by_loops(weight, rows, columns, "sum"), rtol=1e-12, atol=1e-14
    )
    # What is expanded is constant over each block, in the same order.
    numbers = torch.arange(blocks.count).reshape(blocks.shape)
    expanded = blocks.expand(numbers)
    assert expanded.shape == shape
    np.testing.assert_array_equal(by_loops(expanded, rows, columns, "max"), numbers)
    np.testing.assert_array_equal(-by_loops(-expanded, rows, columns, "max"), numbers)


@pytest.mark.parametrize("kind", SHAPES)
def test_filters_and_input_channels(kind):
    shape = SHAPES[kind]
    weight = torch.randn(shape, dtype=torch.float64)
    filters = Layout(shape).blocks(Pattern.parse("filter"), "mean")
    assert filters.shape == (8,)
    torch.testing.assert_close(filters.reduce(weight), weight.reshape(8, -1).mean(1))
    inputs = Layout(shape).blocks(Pattern.parse("input_channel"), "sum")
    assert inputs.shape == (shape[1],)
    torch.testing.assert_close(inputs.reduce(weight), weight.transpose(0, 1).reshape(shape[1], -1).sum(1))
    mask = inputs.mask(torch.arange(shape[1]) != 2)
    assert not mask[:, 2].any()
    assert mask.sum() == mask.numel() - mask[:, 2].numel()


def test_input_channels_of_a_grouped_convolution():
    conv = torch.nn.Conv2d(6, 4, 1, groups=2, bias=False)
    blocks = Layout(tuple(conv.weight.shape), groups=2).blocks(Pattern.parse("input_channel"), "sum")
    assert blocks.shape == (6,)
    for channel in range(6):
        mask = blocks.mask(torch.arange(6) != channel)
        x = torch.zeros(1, 6, 1, 1)
        x[0, channel] = 1
        assert torch.nn.functional.conv2d(x, conv.weight * mask, groups=2).abs().max() == 0
        assert int((~mask).sum()) == 2


@pytest.mark.parametrize("how", ["mean", "sum", "max"])
@pytest.mark.parametrize(("pruned", "group"), [(2, 4), (1, 4), (3, 4), (1, 2), (4, 8), (5, 12)])
def test_n_of_m(pruned, group, how):
    scores = torch.randn(6, 24, generator=torch.Generator().manual_seed(0)).abs()
    blocks = Layout((6, 24)).blocks(Pattern.parse(f"{pruned}:{group}"), how)
    lowest = scores.reshape(6, -1, group).sort(-1).values[..., :pruned]
    expected = {"mean": lowest.mean(-1), "sum": lowest.sum(-1), "max": lowest.amax(-1)}[how]
    torch.testing.assert_close(blocks.reduce(scores), expected)
    assert (blocks.shape, blocks.size) == (expected.shape, pruned)
    kept = torch.rand(blocks.shape, generator=torch.Generator().manual_seed(1)) > 0.5
    mask = blocks.mask(kept, scores).reshape(6, -1, group)
    assert mask[kept].all()
    assert ((~mask[~kept]).sum(-1) == pruned).all()
    gone = scores.reshape(6, -1, group).masked_fill(mask, -1)[~kept]
    torch.testing.assert_close(gone.sort(-1, descending=True).values[:, :pruned].flip(-1), lowest[~kept])
    assert torch.equal(blocks.kept(mask.reshape(6, 24)), kept)


@pytest.mark.parametrize("group", [4, 12])
def test_n_of_m_under_ties_takes_the_first(group):
    blocks = Layout((2, 2 * group)).blocks(Pattern.parse(f"2:{group}"), "mean")
    mask = blocks.mask(torch.zeros(blocks.shape, dtype=torch.bool), torch.ones(2, 2 * group))
    assert torch.equal(mask.reshape(-1, group)[0], torch.arange(group) >= 2)
    assert (mask.reshape(-1, group) == mask.reshape(-1, group)[0]).all()


def test_n_of_m_is_what_torch_takes_for_semi_structured():
    scores = torch.randn(32, 64, generator=torch.Generator().manual_seed(0)).abs()
    blocks = Layout((32, 64)).blocks(Pattern.parse("2:4"), "mean")
    mask = blocks.mask(torch.zeros(blocks.shape, dtype=torch.bool), scores)
    # Two of every four consecutive inputs of each output, as torch.sparse.to_sparse_semi_structured asks for.
    assert (mask.reshape(32, 16, 4).sum(-1) == 2).all()


def test_a_transposed_weight():
    weight = torch.randn(6, 8)
    for name in ("4x1", "filter", "input_channel", "2:4", "1xchannel"):
        if name == "2:4":
            continue
        pattern = Pattern.parse(name)
        ours, plain = Layout((6, 8), transposed=True).blocks(pattern, "sum"), Layout((8, 6)).blocks(pattern, "sum")
        assert ours.shape == plain.shape
        torch.testing.assert_close(ours.reduce(weight), plain.reduce(weight.T.contiguous()))
        values = torch.randn(ours.shape)
        assert torch.equal(ours.expand(values), plain.expand(values).T)


@pytest.mark.parametrize(
    ("shape", "pattern", "message"),
    [
        ((10, 12), "4x1", "4x1 does not fit: 10 outputs are no multiple of 4"),
        ((8, 10), "1x4", "1x4 does not fit: 10 inputs are no multiple of 4"),
        ((8, 3, 3, 3), "2:4", "2:4 does not fit: 27 inputs times taps are no multiple of 4"),
    ],
)
def test_what_does_not_fit(shape, pattern, message):
    with pytest.raises(MisfitError, match=message):
        Layout(shape).blocks(Pattern.parse(pattern), "mean")
