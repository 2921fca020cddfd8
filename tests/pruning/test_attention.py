"""Attention heads: torch's module, and those of transformers."""

import pytest
import torch
from torch import nn

from kdcore import Pruner

HALF = {"pattern": "head", "target_sparsity": 0.5, "schedule": "one_shot"}


def step(model, pruner, *inputs):
    out = model(*inputs)
    (out[0] if isinstance(out, tuple) else getattr(out, "last_hidden_state", out)).square().sum().backward()
    pruner.before_optimizer()
    pruner.after_optimizer()


@pytest.mark.parametrize("criterion", ["magnitude", "snip_momentum", "retrain_free", "random"])
def test_a_masked_head_of_torchs_attention_gives_nothing(criterion):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(16, 4, batch_first=True)
    nn.init.normal_(attention.in_proj_bias)
    x = torch.randn(2, 5, 16)
    pruner = Pruner(nn.ModuleDict({"attn": attention}), {**HALF, "criterion": criterion})
    attention(x, x, x)[0].square().sum().backward()
    pruner.before_optimizer()
    pruner.after_optimizer()
    (layer,) = pruner.layers
    assert layer.name == "attn"
    assert [part.name for part in (*layer.parts, *layer.coupled)] == [
        "attn.in_proj_weight",
        "attn.out_proj.weight",
        "attn.in_proj_bias",
    ]
    kept = layer.kept
    assert int(kept.sum()) == 2
    # By hand: what is left is attention over the kept heads alone.
    query, key, value = (
        (x @ attention.in_proj_weight.T + attention.in_proj_bias).reshape(2, 5, 3, 4, 4).permute(2, 0, 3, 1, 4)
    )
    heads = torch.softmax(query @ key.mT / 2, -1) @ value
    joined = heads[:, kept].permute(0, 2, 1, 3).reshape(2, 5, 8)
    columns = attention.out_proj.weight.reshape(16, 4, 4)[:, kept].reshape(16, 8)
    torch.testing.assert_close(attention(x, x, x)[0], joined @ columns.T + attention.out_proj.bias)
    assert attention.out_proj.weight.reshape(16, 4, 4)[:, ~kept].abs().max() == 0
    assert attention.in_proj_weight.reshape(3, 4, 4, 16)[:, ~kept].abs().max() == 0
    assert attention.in_proj_bias.reshape(3, 4, 4)[:, ~kept].abs().max() == 0
    assert attention.in_proj_weight.reshape(3, 4, 4, 16)[:, kept].abs().amax((0, 2, 3)).min() > 0


def test_the_score_of_a_head_is_over_all_its_weights():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(16, 4)
    for reduce in ("mean", "sum", "max"):
        pruner = Pruner(nn.ModuleDict({"attn": attention}), {**HALF, "reduce": reduce, "target_sparsity": 0.25})
        pruner.before_optimizer()
        rows = attention.in_proj_weight.detach().reshape(3, 4, 4, 16).abs().permute(1, 0, 2, 3).reshape(4, -1)
        columns = attention.out_proj.weight.detach().reshape(16, 4, 4).abs().permute(1, 0, 2).reshape(4, -1)
        together = torch.cat([rows, columns], 1)
        score = together.amax(1) if reduce == "max" else together.mean(1)
        assert (~pruner.layers[0].kept).nonzero().tolist() == [[int(score.argmin())]]


def test_a_score_of_blocks_is_that_of_a_mask_over_the_heads_output():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(16, 4, batch_first=True)
    x = torch.randn(2, 5, 16)
    pruner = Pruner(
        nn.ModuleDict({"attn": attention}), {**HALF, "criterion": "snip_momentum_block", "dtype": "weights"}
    )
    mask = torch.ones(4, requires_grad=True)
    query, key, value = (
        (x @ attention.in_proj_weight.T + attention.in_proj_bias).reshape(2, 5, 3, 4, 4).permute(2, 0, 3, 1, 4)
    )
    heads = torch.softmax(query @ key.mT / 2, -1) @ value * mask[:, None, None]
    out = heads.permute(0, 2, 1, 3).reshape(2, 5, 16) @ attention.out_proj.weight.T + attention.out_proj.bias
    out.square().sum().backward()
    pruner.before_optimizer()
    (scores,) = pruner.state_dict()["groups"][0]["criterion"]["scores"].values()
    torch.testing.assert_close(scores, mask.grad.abs(), rtol=1e-4, atol=1e-4)


def test_attention_of_other_patterns_and_a_whole_transformer():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(80, 3))
    group = {"pattern": "2:4", "target_sparsity": 0.5, "schedule": "one_shot"}
    pruner = Pruner(model, group, example_inputs=torch.randn(2, 5, 16))
    inside = ["self_attn.in_proj_weight", "self_attn.out_proj", "linear1", "linear2"]
    assert [each.name for each in pruner.layers] == [f"0.layers.{i}.{name}" for i in range(2) for name in inside]
    step(model, pruner, torch.randn(2, 5, 16))
    assert pruner.sparsity().total == 0.5
    for name, weight in model.named_parameters():
        if name.startswith("0") and weight.dim() == 2:
            assert ((weight.reshape(len(weight), -1, 4) == 0).sum(-1) == 2).all(), name
    without = Pruner(model, {**group, "exclude": ["*.self_attn"]})
    assert [each.name.rpartition(".")[2] for each in without.layers] == ["linear1", "linear2"] * 2
    alone = Pruner(model, {**group, "layers": ["MultiheadAttention"]})
    assert [each.name for each in alone.layers] == [f"0.layers.{i}.self_attn.in_proj_weight" for i in range(2)]


class Grouped(nn.Module):
    """Grouped-query attention as transformers write it."""

    def __init__(self, heads=4, shared=2, size=4):
        super().__init__()
        self.num_heads, self.num_key_value_heads, self.size = heads, shared, size
        self.q_proj = nn.Linear(16, heads * size)
        self.k_proj, self.v_proj = nn.Linear(16, shared * size), nn.Linear(16, shared * size)
        self.o_proj = nn.Linear(heads * size, 16, bias=False)

    def forward(self, x):
        batch, length, _ = x.shape
        query = self.q_proj(x).reshape(batch, length, self.num_heads, self.size).transpose(1, 2)
        key, value = (
            each(x).reshape(batch, length, self.num_key_value_heads, self.size).transpose(1, 2).repeat_interleave(2, 1)
            for each in (self.k_proj, self.v_proj)
        )
        return self.o_proj((torch.softmax(query @ key.mT, -1) @ value).transpose(1, 2).flatten(2))


def test_heads_that_share_keys_and_values_go_together():
    torch.manual_seed(0)
    model = nn.ModuleDict({"attn": Grouped()})
    pruner = Pruner(model, HALF)
    pruner.before_optimizer()
    pruner.apply()
    (layer,) = pruner.layers
    assert (layer.blocks, int(layer.kept.sum())) == (2, 1)
    gone = int((~layer.kept).nonzero())
    attention = model["attn"]
    assert attention.q_proj.weight.reshape(2, 8, 16)[gone].abs().max() == 0
    assert attention.k_proj.bias.reshape(2, 4)[gone].abs().max() == 0
    assert attention.o_proj.weight.reshape(16, 2, 8)[:, gone].abs().max() == 0


def models_of_transformers():
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    yield "bert", transformers.BertModel(transformers.BertConfig(vocab_size=11, **small))
    yield "vit", transformers.ViTModel(transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, **small))
    yield "llama", transformers.LlamaModel(transformers.LlamaConfig(vocab_size=11, num_key_value_heads=2, **small))
    yield (
        "gpt2",
        transformers.GPT2Model(transformers.GPT2Config(vocab_size=11, n_positions=8, n_embd=16, n_layer=1, n_head=4)),
    )
    yield (
        "distilbert",
        transformers.DistilBertModel(
            transformers.DistilBertConfig(vocab_size=11, dim=16, n_layers=1, n_heads=4, hidden_dim=32)
        ),
    )


@pytest.mark.slow
def test_heads_and_layers_of_transformers_models():
    found = {}
    for name, model in models_of_transformers():
        inputs = torch.randn(2, 1, 8, 8) if name == "vit" else torch.randint(11, (2, 6))
        pruner = Pruner(model, {**HALF, "criterion": "snip"})
        model(inputs).last_hidden_state.square().sum().backward()
        pruner.before_optimizer()
        pruner.after_optimizer()
        (layer,) = pruner.layers
        found[name] = (layer.name, layer.blocks, len(layer.parts))
        assert int(layer.kept.sum()) == layer.blocks / 2
        assert model(inputs).last_hidden_state.isfinite().all()
        weights = Pruner(
            model, {"pattern": "4x1", "target_sparsity": 0.5, "schedule": "one_shot", "prune_classifier": True}
        )
        assert len(weights.layers) >= 4
    assert found == {
        "bert": ("encoder.layer.0.attention.self", 4, 4),
        "vit": ("layers.0.attention", 4, 4),
        "llama": ("layers.0.self_attn", 2, 4),
        "gpt2": ("h.0.attn", 4, 2),
        "distilbert": ("transformer.layer.0.attention", 4, 4),
    }
