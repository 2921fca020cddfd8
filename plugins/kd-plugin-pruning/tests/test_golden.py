"""The scores of Neural Compressor, and each criterion against its equation written out by hand."""

import numpy as np
import pytest
import torch

from kdcore import create
from kdcore.pruning import Pattern
from kdcore.pruning.layout import Layout

LAYERS = ("fc1", "conv", "fc2")
BLOCK_NAMES = {"snip_momentum_block": "snip_momentum_block", "block_mask": "snip_momentum_block"}


def blocks_of(weight, pattern="1x1", how="mean"):
    return Layout(tuple(weight.shape)).blocks(Pattern.parse(pattern), how)


def close(found, expected, dtype):
    """Each score to 1e-6 relative, as float32 sums allow; to 1e-12 where everything is float64."""
    bound = 1e-12 if dtype is torch.float64 else 1e-6
    torch.testing.assert_close(found.double(), expected.double(), rtol=bound, atol=1e-15)


def run(name, weights, grads, *, dtype, pattern="1x1", how="mean", **params):
    """Show the criterion each step's gradients and yield its block scores after each."""
    criterion = create("criterion", name, **params)
    criterion.dtype = dtype
    for gradients in grads:
        scores = {}
        for layer, weight in weights.items():
            blocks = blocks_of(weight, pattern, how)
            if criterion.needs_gradients:
                criterion.update(layer, weight, gradients[layer], blocks)
            score = criterion.score(layer, weight, blocks)
            scores[layer] = (score if score.shape == blocks.shape else blocks.reduce(score)).clone()
        yield scores


@pytest.mark.parametrize("dtype", [torch.float32, None])
@pytest.mark.parametrize("version", ["v2.2.1", "v2.6.1"])
@pytest.mark.parametrize("name", ["magnitude", "gradient", "snip", "snip_momentum"])
def test_scores_of_weights(golden, version, name, dtype):
    case = golden["criteria"][version][name]
    # Their own buffers are float32 where they accumulate, whatever the weights are.
    exact = torch.float32 if name == "snip_momentum" else dtype or torch.float64
    exact = torch.float64 if name == "magnitude" else exact
    for number, scores in enumerate(run(name, case["weights"], case["grads"], dtype=dtype), start=1):
        for layer in LAYERS:
            expected = case[f"scores_{number}"][layer]
            found = scores[layer]
            matrix = expected.movedim(1, -1).reshape(found.shape)
            close(found, matrix, exact)


def test_low_memory_keeps_the_weights_dtype(golden):
    case = golden["criteria"]["v2.6.1"]["snip_momentum"]
    expected = golden["criteria"]["v2.6.1"]["snip_momentum_low_memory_bf16"]["scores_3"]
    weights = {name: value.bfloat16() for name, value in case["weights"].items()}
    grads = [{name: value.bfloat16() for name, value in step.items()} for step in case["grads"]]
    *_, last = run("snip_momentum", weights, grads, dtype=None)
    for layer in LAYERS:
        assert last[layer].dtype is torch.bfloat16
        matrix = expected[layer].movedim(1, -1).reshape(last[layer].shape)
        torch.testing.assert_close(last[layer].float(), matrix.float(), rtol=0.05, atol=1e-3)


def test_scores_of_blocks_by_every_pattern_and_reduction(golden):
    cases = golden["criteria_pattern"]
    assert {(case["criterion"], case["reduce"]) for case in cases} == {("magnitude", "mean"), ("snip_momentum", "sum")}
    for case in cases:
        dtype = torch.float64 if case["criterion"] == "magnitude" else torch.float32
        found = list(
            run(
                case["criterion"],
                case["weights"],
                case["grads"],
                dtype=None,
                pattern=case["pattern"],
                how=case["reduce"],
            )
        )
        for number in (1, 3):
            for layer in LAYERS:
                expected = case[f"scores_{number}"][layer]
                assert found[number - 1][layer].shape == expected.shape, (case["pattern"], layer)
                close(found[number - 1][layer], expected, dtype)


def layer_gradient(case, step):
    """The gradient of a linear layer's weight, from its input and the gradient of its output."""
    return step["upstream"].T @ step["x"]


def test_scores_of_block_masks(golden):
    assert len(golden["block"]) == 12
    for key, case in golden["block"].items():
        _, name, pattern = key.split("|")
        criterion = create("criterion", BLOCK_NAMES.get(name, name))
        blocks = blocks_of(case["W"], pattern)
        assert list(blocks.shape) == case["block_shape"]
        for step in case["steps"]:
            gradient = layer_gradient(case, step)
            close(blocks.sum(case["W"] * gradient), step["mask_grad"].reshape(blocks.shape), torch.float64)
            criterion.update("fc", case["W"], gradient, blocks)
            close(criterion.score("fc", case["W"], blocks), step["scores"]["fc"].reshape(blocks.shape), torch.float32)


# The equations again, in numpy and loops, independent of every helper above.


@pytest.fixture
def steps():
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(8, 12, generator=generator, dtype=torch.float64)
    return weight, [torch.randn(8, 12, generator=generator, dtype=torch.float64) for _ in range(4)]


def by_hand(name, weight, grads, alpha=0.9, beta=1.0):
    weight, grads = weight.numpy(), [each.numpy() for each in grads]
    if name == "magnitude":
        return np.abs(weight)
    if name == "gradient":
        return np.abs(grads[-1])
    if name == "snip":
        return np.abs(weight * grads[-1])
    if name == "snip_momentum":
        return sum(beta * alpha ** (len(grads) - 1 - t) * np.abs(weight * g) for t, g in enumerate(grads))
    # Blocks of 4 outputs by 3 inputs.
    score = np.zeros((2, 4))
    for t, gradient in enumerate(grads):
        for row in range(2):
            for column in range(4):
                mask_gradient = 0.0
                for i in range(4 * row, 4 * row + 4):
                    for j in range(3 * column, 3 * column + 3):
                        mask_gradient += weight[i, j] * gradient[i, j]
                if name == "retrain_free":
                    score[row, column] += mask_gradient**2
                else:
                    score[row, column] += beta * alpha ** (len(grads) - 1 - t) * abs(mask_gradient)
    return score


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("magnitude", {}),
        ("gradient", {}),
        ("snip", {}),
        ("snip_momentum", {}),
        ("snip_momentum", {"alpha": 0.5, "beta": 0.25}),
        ("snip_momentum_block", {}),
        ("snip_momentum_block", {"alpha": 0.0, "beta": 2.0}),
        ("retrain_free", {}),
    ],
)
def test_the_equations_in_float64(steps, name, params):
    weight, grads = steps
    *_, last = run(
        name,
        {"w": weight},
        [{"w": each} for each in grads],
        dtype=None,
        pattern="4x3" if "re" in name[:2] or "block" in name else "1x1",
        **params,
    )
    assert last["w"].dtype is torch.float64
    np.testing.assert_allclose(last["w"].numpy(), by_hand(name, weight, grads, **params), rtol=1e-12)


@pytest.mark.parametrize("name", ["snip_momentum_block", "retrain_free"])
def test_the_derivative_by_a_mask_is_what_autograd_says(steps, name):
    weight, _ = steps
    blocks = blocks_of(weight, "2x6")
    weight = weight.requires_grad_()
    mask = torch.ones(blocks.shape, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (x @ (weight * blocks.expand(mask)).T).tanh().square().sum().backward()
    criterion = create("criterion", name)
    criterion.dtype = None
    criterion.update("w", weight.detach(), weight.grad, blocks)
    expected = mask.grad.square() if name == "retrain_free" else mask.grad.abs()
    torch.testing.assert_close(criterion.score("w", weight, blocks), expected, rtol=1e-12, atol=1e-12)


def rearranging(case, pattern):
    criterion = create("criterion", "retrain_free", rearrange=True)
    blocks = blocks_of(case["W"], pattern)
    for step in case["steps"]:
        criterion.update("fc", case["W"], layer_gradient(case, step), blocks)
    return criterion, blocks


def test_rearranged_masks(golden):
    case = golden["block"]["v2.6.1|retrain_free|channelx1"]
    criterion, blocks = rearranging(case, "channelx1")
    before, after = (case[f"mask_{when}_rearrange"]["fc"].bool() for when in ("before", "after"))
    assert not torch.equal(before, after)
    assert torch.equal(criterion.rearrange("fc", before, blocks), after)


def test_rearranged_rows_where_neural_compressor_broadcasts_a_mask_over_a_matrix(golden):
    case = golden["block"]["v2.6.1|retrain_free|1xchannel"]
    criterion, blocks = rearranging(case, "1xchannel")
    before = case["mask_before_rearrange"]["fc"].bool()
    found = criterion.rearrange("fc", before, blocks)
    assert found.shape == (8, 1)
    assert found.sum() == before.sum()
    slopes = torch.stack([step["mask_grad"].flatten() for step in case["steps"]])

    def cost(kept):
        return float(slopes[:, ~kept.flatten()].sum(1).square().sum())

    assert cost(found) <= cost(before)


def test_rearranging_needs_few_blocks():
    criterion = create("criterion", "retrain_free", rearrange=True)
    weight = torch.zeros(1 << 8, 1 << 7)
    with pytest.raises(ValueError, match="rearrange keeps a matrix over the blocks of a layer, and w has 32768"):
        criterion.update("w", weight, weight, blocks_of(weight))
