"""A small decoder-only transformer that predicts the next token."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TextTransformer(nn.Module):
    """A causal transformer language model with learned positions and pre-normalisation.

    Its parts are `embed`, `position`, `blocks.0`, `blocks.1`, ... (each of `attention_norm`, `attention`,
    `mlp_norm` and `mlp`), `norm` and `head`. The head is a module even when its weight is the embedding's,
    so `student:head@input` and `student:head@module` are addresses.

    Arguments:
        vocab_size: number of different tokens, 1 or more.
        dim: width of the model, a multiple of `heads`.
        depth: number of blocks, 0 or more.
        heads: attention heads per block, 1 or more.
        max_length: longest sequence, 1 or more.
        dropout: share dropped in training, 0 <= dropout < 1.
        tied: whether the head uses the embedding's weight.

    Called with tokens (B, T), int64, T up to `max_length`; returns logits (B, T, vocab_size).
    Raises ValueError for sizes that do not fit together and for longer sequences.
    """

    def __init__(
        self,
        vocab_size: int = 256,
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        *,
        max_length: int = 256,
        dropout: float = 0.0,
        tied: bool = True,
    ) -> None:
        for name, size in (("vocab_size", vocab_size), ("dim", dim), ("heads", heads), ("max_length", max_length)):
            if size < 1:
                raise ValueError(f"{name} must be 1 or more, found {size}")
        if depth < 0:
            raise ValueError(f"depth must be 0 or more, found {depth}")
        if dim % heads:
            raise ValueError(f"dim is {dim} and heads is {heads}; dim must be a multiple of heads")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, found {dropout}")
        super().__init__()
        self.embed = nn.Embedding(vocab_size, dim)
        self.position = nn.Embedding(max_length, dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocab_size, bias=False)
        # Small enough that a fresh model predicts about uniformly.
        for weight in (self.embed.weight, self.position.weight, self.head.weight):
            nn.init.normal_(weight, std=0.02)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, input: Tensor) -> Tensor:
        """Return logits (B, T, vocab_size) for tokens (B, T)."""
        longest = self.position.num_embeddings
        if input.dim() != 2 or input.shape[1] > longest:
            raise ValueError(f"input has shape {tuple(input.shape)}; tokens (B, T) with T up to {longest} are needed")
        places = torch.arange(input.shape[1], device=input.device)
        x = self.dropout(self.embed(input) + self.position(places))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then two linear layers, each added to what came in."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = CausalAttention(dim, heads, dropout)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, T, dim) with both parts added."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))  # type: ignore[no-any-return]


class CausalAttention(nn.Module):
    """Multi-head attention in which no position sees a later one."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.share_dropped = dropout
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended values (B, T, dim)."""
        query, key, value = self.query_key_value(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        share = self.share_dropped if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=share, is_causal=True)
        return self.dropout(self.out(attended.transpose(1, 2).flatten(2)))  # type: ignore[no-any-return]
