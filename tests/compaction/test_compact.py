"""What goes, what stays, and that the outputs are the masked model's."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from kd_plugin_digits.networks import DigitsCNN, DigitsMLP
from kd_plugin_text.model import TextTransformer
from torch import Tensor, nn

import kdcore
from kdcore.compaction.compact import CompactModel, NothingToRemoveError
from tests.compaction.nets import (
    Branches,
    Gated,
    Random,
    Residual,
    Separable,
    Transformer,
    lively,
    spoil,
    zero_filters,
    zero_inputs,
)

IMAGES = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
DIGITS = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def compacted(model: nn.Module, x: Tensor) -> CompactModel:
    """Compact a model and compare outputs on other data of other size of batch, in double precision."""
    before = copy.deepcopy(model.state_dict())
    result = kdcore.compact(model, x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    other = torch.cat([x, x.flip(0)]) if not x.is_floating_point() else torch.cat([x, 3 * torch.randn_like(x)])
    other = other.double() if other.is_floating_point() else other
    with torch.no_grad():
        expected, found = copy.deepcopy(model).double()(other), copy.deepcopy(result.model).double()(other)
    # A constant that was folded was rounded to single precision.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert result.report.after.parameters == sum(each.numel() for each in result.model.parameters())
    return result


def shapes(model: nn.Module, *names: str) -> list[tuple[int, ...]]:
    return [tuple(model.get_submodule(name).weight.shape) for name in names]  # type: ignore[union-attr, operator]


def test_filters_of_a_convolutional_network_go_with_their_normalisation_and_the_next_layer_s_inputs() -> None:
    model = lively(DigitsCNN(width=4))
    zero_filters(model.block1.conv, [1], model.block1.bn)
    zero_filters(model.block3.conv, range(10), model.block3.bn)
    small = compacted(model, DIGITS).model
    assert shapes(small, "block1.conv", "block2.conv", "block3.conv", "fc") == [
        (3, 1, 3, 3),
        (8, 3, 3, 3),
        (6, 8, 3, 3),
        (10, 6),
    ]
    assert small.block1.bn.num_features == 3
    assert small.block2.conv.in_channels == 3
    assert (small.fc.in_features, small.fc.out_features) == (6, 10)


def test_what_nothing_reads_goes_although_it_is_not_zero() -> None:
    model = lively(DigitsCNN(width=4))
    zero_inputs(model.block3.conv, [0, 5])
    assert shapes(compacted(model, DIGITS).model, "block2.conv", "block3.conv") == [(6, 4, 3, 3), (16, 6, 3, 3)]


def test_a_filter_whose_normalisation_still_shifts_into_a_padded_convolution_stays() -> None:
    model = lively(DigitsCNN(width=4))
    with torch.no_grad():
        model.block1.conv.weight[2] = 0
        model.block1.bn.bias[2], model.block1.bn.weight[2] = 5.0, 1.0  # relu lets it through
    with pytest.raises(
        NothingToRemoveError, match=r"whole outputs of block1.conv \(1\), but each of these is still"
    ) as e:
        kdcore.compact(model, DIGITS)
    assert "zero those too" in e.value.problem.repair


def test_constants_move_into_the_bias_of_the_next_layer() -> None:
    model = lively(DigitsMLP(width=8))
    with torch.no_grad():
        model.layer1.linear.weight[[0, 3]] = 0
        model.layer1.linear.bias[[0, 3]] = torch.tensor([0.5, -0.5])  # relu makes the second 0
    result = compacted(model, DIGITS)
    assert shapes(result.model, "layer1.linear", "layer2.linear") == [(6, 64), (8, 6)]
    assert result.report.folded == ["layer2.linear.bias"]


def test_a_layer_without_bias_gets_one_for_constants() -> None:
    model = lively(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 2, 3, bias=False)))
    zero_filters(model[0], [1])  # sigmoid(0) = 1/2
    result = compacted(model, IMAGES)
    assert shapes(result.model, "0", "2") == [(3, 3, 1, 1), (2, 3, 3, 3)]
    expected = 0.5 * model[2].weight[:, 1].sum((1, 2))
    torch.testing.assert_close(result.model[2].bias, expected)


def test_a_constant_stays_where_padding_mixes_it_with_zeros() -> None:
    model = lively(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 2, 3, padding=1)))
    zero_filters(model[0], [1])
    with pytest.raises(NothingToRemoveError):
        kdcore.compact(model, IMAGES)


def test_branches_that_are_added_go_together() -> None:
    model = lively(Residual())
    zero_filters(model.conv1, [0, 5], model.bn1)
    zero_filters(model.stem, [2, 3], model.bn)
    zero_filters(model.conv2, [3, 6], model.bn2)
    small = compacted(model, IMAGES).model
    # Of the stream only channel 3 is 0 on both sides.
    assert shapes(small, "stem", "conv1", "conv2", "fc") == [(7, 3, 3, 3), (10, 7, 3, 3), (7, 10, 3, 3), (5, 7)]


def test_a_branch_of_zeros_keeps_one_channel_inside() -> None:
    model = lively(Residual())
    zero_filters(model.conv2, range(8), model.bn2)
    assert shapes(compacted(model, IMAGES).model, "conv1", "conv2") == [(1, 8, 3, 3), (8, 1, 3, 3)]


def test_depthwise_convolutions_lose_their_groups() -> None:
    model = lively(Separable())
    zero_filters(model.expand, [0, 4], model.bn1)
    zero_filters(model.depth, [0, 4, 6], model.bn2)
    small = compacted(model, IMAGES).model
    # Of channel 6 only the later half is 0; what nothing reads goes too.
    assert shapes(small, "expand", "depth", "project") == [(5, 3, 1, 1), (5, 1, 3, 3), (6, 5, 1, 1)]
    assert small.depth.groups == small.depth.in_channels == 5


def test_groups_that_stay_keep_as_many_channels_each() -> None:
    model = lively(Separable(multiplier=2))
    zero_filters(model.depth, [0, 4, 5], model.bn2)
    small = compacted(model, IMAGES).model
    # Group 2 goes whole; group 0 keeps its output of zeros, because the others have two.
    assert shapes(small, "depth", "project") == [(14, 1, 3, 3), (6, 14, 1, 1)]
    model = lively(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3, groups=2), nn.Conv2d(6, 2, 1)))
    zero_filters(model[0], [0, 1, 6])
    zero_filters(model[1], [2, 3])
    small = compacted(model, IMAGES).model
    assert shapes(small, "0", "1", "2") == [(6, 3, 1, 1), (4, 3, 3, 3), (2, 4, 1, 1)]


def test_concatenated_and_flattened_channels() -> None:
    model = lively(Branches())
    zero_filters(model.left, [0])
    zero_filters(model.right, [1, 2])
    zero_filters(model.after, [4])
    small = compacted(model, IMAGES).model
    assert shapes(small, "left", "right", "after", "fc") == [(3, 3, 1, 1), (4, 3, 3, 3), (4, 7, 1, 1), (3, 16)]


def test_normalisation_over_channels_keeps_what_it_averages() -> None:
    model = lively(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)))
    zero_filters(model[0], [3], model[1])
    with pytest.raises(NothingToRemoveError):
        kdcore.compact(model, torch.randn(3, 4))
    model = lively(nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8), nn.Conv2d(8, 2, 1)))
    zero_filters(model[0], [2, 3, 4], model[1])
    result = compacted(model, IMAGES)
    assert shapes(result.model, "0", "1", "2") == [(6, 3, 1, 1), (6,), (2, 6, 1, 1)]
    assert (result.model[1].num_groups, result.report.stay) == (3, {"0": 1})


def test_values_and_gates_of_one_layer_go_in_pairs() -> None:
    model = lively(Gated())
    zero_filters(model.both, [1, 2, 10])  # values 1 and 2, the gate of 2
    assert shapes(compacted(model, torch.randn(4, 6)).model, "both", "out") == [(12, 6), (3, 6)]


def test_heads_and_neurons_of_the_text_model() -> None:
    model = lively(TextTransformer(30, 16, 2, 4))
    block = model.blocks[0]
    zero_inputs(block.attention.out, range(4, 8))  # head 1
    zero_inputs(block.mlp[2], [0, 9])
    zero_filters(block.mlp[0], [7])
    small = compacted(model, torch.randint(0, 30, (2, 6))).model
    names = ("attention.query_key_value", "attention.out", "mlp.0", "mlp.2")
    assert shapes(small.blocks[0], *names) == [(36, 16), (16, 12), (61, 16), (16, 61)]
    assert [each.attention.heads for each in small.blocks] == [3, 4]
    assert small.head.weight is small.embed.weight


@pytest.mark.parametrize("batch_first", [True, False])
def test_heads_of_torch_s_attention(batch_first: bool) -> None:
    model = lively(Transformer(batch_first=batch_first))
    zero_inputs(model.encoder.self_attn.out_proj, range(8))
    zero_inputs(model.decoder.multihead_attn.out_proj, range(12, 16))
    with torch.no_grad():  # the values of head 2, so that nothing comes out of it
        model.decoder.self_attn.in_proj_weight[32 + 8 : 32 + 12] = 0
        model.decoder.self_attn.in_proj_bias[32 + 8 : 32 + 12] = 0
    zero_filters(model.encoder.linear1, [3])
    result = compacted(model, torch.randn(2, 5, 16))
    encoder, decoder = result.model.encoder, result.model.decoder
    assert [each.num_heads for each in (encoder.self_attn, decoder.self_attn, decoder.multihead_attn)] == [2, 3, 3]
    assert tuple(encoder.self_attn.in_proj_weight.shape) == (24, 16)
    assert encoder.linear1.out_features == 11
    assert {each.what for each in result.report.changes if each.module.endswith("attn")} == {"heads"}


def test_inputs_by_name_and_outputs_in_a_dict() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, *, x: Tensor, scale: float) -> dict[str, Any]:
            hidden = self.a(x).relu()
            return {"logits": self.b(hidden) * scale, "unchanged": x, "scale": scale}

    model = lively(Named())
    zero_filters(model.a, [0])
    result = kdcore.compact(model, {"x": torch.randn(3, 4), "scale": 2.0})
    assert shapes(result.model, "a", "b") == [(5, 4), (2, 5)]
    assert result.report.difference < 1e-6


def test_modes_and_devices_are_those_of_the_model() -> None:
    model = lively(DigitsCNN(width=4))
    zero_filters(model.block1.conv, [1], model.block1.bn)
    model.train()
    model.block2.eval()
    small = kdcore.compact(model, DIGITS).model
    assert (small.training, small.block2.bn.training) == (True, False)
    assert all(each.requires_grad for each in small.parameters())


def test_half_precision_is_compared_in_single() -> None:
    model = lively(DigitsMLP(width=8)).bfloat16()
    zero_filters(model.layer1.linear, [1, 2])
    result = kdcore.compact(model, DIGITS.bfloat16())
    assert result.model.layer1.linear.weight.dtype == torch.bfloat16
    assert result.report.difference < 1e-6


def test_costs_before_and_after() -> None:
    model = lively(nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False)))
    zero_filters(model[0], [0, 1])
    report = kdcore.compact(model, torch.randn(5, 4)).report
    assert (report.before.parameters, report.after.parameters) == (48, 36)
    assert (report.before.bytes, report.after.bytes) == (4 * 48, 4 * 36)
    assert (report.before.flops, report.after.flops) == (2 * 48, 2 * 36)
    assert report.before.latency_ms > 0
    assert [(each.module, each.what, each.before, each.after) for each in report.changes] == [
        ("0", "outputs", 8, 6),
        ("2", "inputs", 8, 6),
    ]


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_zero_and_however_layers_hang_together(seed: int) -> None:
    check_random(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8, 120))
def test_whatever_is_zero_at_length(seed: int) -> None:
    check_random(seed)


def check_random(seed: int) -> None:
    """Compact a network drawn at random; compaction itself may neither fail nor differ."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    model = lively(Random(rng), seed)
    spoil(model, rng)
    try:
        result = compacted(model, IMAGES)
    except NothingToRemoveError:
        return
    assert result.report.messages == []
    assert result.report.after.parameters < result.report.before.parameters
