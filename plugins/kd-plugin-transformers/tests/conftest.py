from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

import kdcore

WORDS = ["[PAD]", "[UNK]", *["the", "a", "cat", "dog", "sat", "ran", "on", "mat", "and", "then"]]
GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 32, "vocab_size": 64}
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def build(**params):
    return kdcore.create("model", "hf_model", **params)


def save_tokenizer(folder, words=WORDS):
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return str(folder)


def save_model(folder, words=WORDS, task="causal_lm", config=GPT2, **params):
    torch.manual_seed(0)
    model = build(config=config, task=task, **params)
    model.save_pretrained(folder)
    if words:
        save_tokenizer(folder, words)
    return model


@pytest.fixture
def tokenizer(tmp_path):
    return save_tokenizer(tmp_path / "tokenizer")


@pytest.fixture
def saved(tmp_path) -> Path:
    folder = tmp_path / "saved"
    save_model(folder)
    return folder


def tokens(rows=2, length=6, below=12):
    return torch.randint(below, (rows, length), generator=torch.Generator().manual_seed(0))
