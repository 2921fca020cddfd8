"""Heads and hidden neurons of models of transformers, whose Python is nobody's here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

import kdcore
from tests.compaction.nets import lively

IDS = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[1, 5:] = 0
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "vocab_size": 50,
}


def bert() -> tuple[nn.Module, list[tuple[str, int, range]], dict[str, tuple[int, ...]]]:
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES))
    layer = "bert.encoder.layer.0"
    return (
        model,
        [(f"{layer}.attention.output.dense", 1, range(4, 8)), (f"{layer}.output.dense", 1, range(3, 6))],
        {f"{layer}.attention.self.query": (12, 16), f"{layer}.intermediate.dense": (29, 16)},
    )


def gpt2() -> tuple[nn.Module, list[tuple[str, int, range]], dict[str, tuple[int, ...]]]:
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=4, bos_token_id=0, eos_token_id=0, use_cache=False
    )
    layer = "transformer.h.0"
    return (
        transformers.GPT2LMHeadModel(config),
        [(f"{layer}.attn.c_proj", 0, range(8, 12)), (f"{layer}.mlp.c_proj", 0, range(3, 6))],
        {f"{layer}.attn.c_attn": (16, 36), f"{layer}.mlp.c_fc": (16, 61)},
    )


def llama() -> tuple[nn.Module, list[tuple[str, int, range]], dict[str, tuple[int, ...]]]:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, num_key_value_heads=2, use_cache=False))
    layer = "model.layers.0"
    # Queries 2 and 3 share a head of keys and values, which goes with them; query 0 alone would not.
    return (
        model,
        [(f"{layer}.self_attn.o_proj", 1, range(8, 16)), (f"{layer}.mlp.down_proj", 1, range(3, 6))],
        {f"{layer}.self_attn.q_proj": (8, 16), f"{layer}.self_attn.k_proj": (4, 16), f"{layer}.mlp.up_proj": (29, 16)},
    )


@pytest.mark.slow
@pytest.mark.parametrize("build", [bert, gpt2, llama])
def test_heads_and_neurons(build: Any) -> None:
    torch.manual_seed(0)
    model, zeros, expected = build()
    lively(model)
    with torch.no_grad():
        for name, dim, indices in zeros:
            model.get_submodule(name).weight.index_fill_(dim, torch.tensor(list(indices)), 0)
    result = kdcore.compact(model, {"input_ids": IDS, "attention_mask": MASK})
    assert {name: tuple(result.model.get_submodule(name).weight.shape) for name in expected} == expected
    assert result.report.messages == []
    with torch.no_grad():
        longer = IDS.repeat(2, 1)[:3]
        torch.testing.assert_close(result.model(longer).logits, model(longer).logits)
