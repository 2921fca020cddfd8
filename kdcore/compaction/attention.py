"""Multi-head attention with fewer heads than its width would have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CompactMultiheadAttention(nn.Module):
    """What `nn.MultiheadAttention` computes, with some of its heads left out.

        head_h = softmax(q_h k_h^T / sqrt(head_dim)) v_h;  output = concat(head_1, ..., head_n) out_proj

    torch's own module derives the width of a head from the whole width, so it cannot have fewer heads. This one is
    called the same way and has parameters of the same names.

    Arguments:
        original: the module whose place it takes; it gives the widths, the order of dimensions and the dropout.
        num_heads: how many heads are left, 1 or more.

    With `need_weights` the weights that are returned are those of the heads that are left.
    """

    in_proj_weight: nn.Parameter | None
    q_proj_weight: nn.Parameter
    k_proj_weight: nn.Parameter
    v_proj_weight: nn.Parameter
    in_proj_bias: nn.Parameter | None

    def __init__(self, original: nn.MultiheadAttention, num_heads: int) -> None:
        super().__init__()
        self.embed_dim = original.embed_dim
        self.kdim, self.vdim = original.kdim, original.vdim
        self.num_heads = num_heads
        self.head_dim = original.head_dim
        self.dropout = original.dropout
        self.batch_first = original.batch_first
        # Transformer layers of torch ask this before they try a fused kernel, which would count the heads wrong.
        self._qkv_same_embed_dim = False
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias"):
            self.register_parameter(name, getattr(original, name))
        self.out_proj = original.out_proj
        self.train(original.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output, in the layout of `query`, and the weights or None; as `nn.MultiheadAttention`."""
        batched = query.dim() == 3
        if batched and not self.batch_first:
            query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        if not batched:
            query, key, value = (each.unsqueeze(0) for each in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        projected = zip((query, key, value), self._weights(), self._biases(), strict=True)
        queries, keys, values = (self._heads(*each) for each in projected)
        mask = self._mask(query, key_padding_mask, attn_mask)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = queries @ keys.transpose(-2, -1) / self.head_dim**0.5
            weights = F.softmax(scores if mask is None else scores + mask, dim=-1)
            attended = F.dropout(weights, dropout) @ values
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            causal = is_causal and mask is None
            attended = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, dropout_p=dropout, is_causal=causal
            )
        output: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        if not batched:
            return output[0], None if weights is None else weights[0]
        return output if self.batch_first else output.transpose(0, 1), weights

    def _heads(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        projected = F.linear(x, weight, bias)
        return projected.view(*projected.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)

    def _weights(self) -> tuple[Tensor, ...]:
        if self.in_proj_weight is not None:
            return self.in_proj_weight.chunk(3)
        return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight

    def _biases(self) -> tuple[Tensor | None, ...]:
        return self.in_proj_bias.chunk(3) if self.in_proj_bias is not None else (None, None, None)

    def _mask(self, query: Tensor, padding: Tensor | None, attention: Tensor | None) -> Tensor | None:
        """Return both masks as one that is added to the scores (B, heads, L, S)."""
        found = None
        for mask, shape in ((padding, (len(query), 1, 1, -1)), (attention, None)):
            if mask is None:
                continue
            added = query.new_zeros(mask.shape).masked_fill(mask, float("-inf")) if mask.dtype == torch.bool else mask
            if shape is not None:
                added = added.view(shape)
            elif added.dim() == 3:
                added = added.view(len(query), -1, *added.shape[1:])
            found = added if found is None else found + added
        return found
