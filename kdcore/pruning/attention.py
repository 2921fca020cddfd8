"""Attention modules: where their heads lie in the weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from kdcore.pruning.candidates import is_transposed
from kdcore.pruning.layers import Part
from kdcore.pruning.layout import MisfitError, bias_by_head, columns_by_head, rows_by_head

# How the projections are called: torch and most of transformers; BERT and its kin; DistilBERT.
_NAMES = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("query_proj", "key_proj", "value_proj"),
    ("q", "k", "v"),
)
_FUSED = ("c_attn", "qkv", "query_key_value")
_OUTPUTS = ("out_proj", "o_proj", "out_lin", "c_proj", "proj", "dense", "o", "output.dense")
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
_KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads")


class Attention(NamedTuple):
    """The weights of an attention module that are pruned by head, and the biases that go with them.

    The output projection comes last of the weights.
    """

    name: str
    parts: list[Part]
    coupled: list[Part]


def attentions(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every attention module that is known to have heads, with its name."""
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention) or _projections(module):
            yield name, module


def by_head(model: nn.Module, name: str, module: nn.Module, how: str) -> Attention:
    """Return the weights of an attention module by head; raises MisfitError where its heads are not told."""
    if isinstance(module, nn.MultiheadAttention):
        return _torch_attention(name, module, how)
    heads = _number(module, _KEY_VALUE_HEADS) or _number(module, _HEADS)
    if heads is None:
        raise MisfitError(f"head does not fit: the module says its number of heads under none of {', '.join(_HEADS)}")
    inputs = _projections(module)
    output = _output(model, name, module)
    if output is None:
        raise MisfitError("head does not fit: its output projection was not found")
    parts: list[Part] = []
    coupled: list[Part] = []
    for key, stacked in inputs.items():
        _add_rows(parts, coupled, f"{name}.{key}", module.get_submodule(key), heads, how, stacked)
    where, projection = output
    shape = tuple(projection.weight.shape)  # type: ignore[arg-type]
    transposed = is_transposed(projection)
    if (shape[0] if transposed else shape[1]) % heads:
        raise MisfitError(f"head does not fit: {shape} cannot be cut into {heads} heads")
    parts.append(
        Part(f"{where}.weight", projection, "weight", columns_by_head(shape, heads, how, transposed=transposed))
    )
    return Attention(name, parts, coupled)


def _torch_attention(name: str, module: nn.MultiheadAttention, how: str) -> Attention:
    heads = module.num_heads
    dot = f"{name}." if name else ""
    parts = []
    for key, stacked in (("in_proj_weight", 3), ("q_proj_weight", 1), ("k_proj_weight", 1), ("v_proj_weight", 1)):
        weight = getattr(module, key)
        if weight is not None:
            parts.append(Part(f"{dot}{key}", module, key, rows_by_head(weight.shape, heads, how, stacked=stacked)))
    output = module.out_proj
    parts.append(Part(f"{dot}out_proj.weight", output, "weight", columns_by_head(output.weight.shape, heads, how)))
    coupled = []
    bias = module.in_proj_bias
    if bias is not None:
        coupled.append(Part(f"{dot}in_proj_bias", module, "in_proj_bias", bias_by_head(len(bias), heads, stacked=3)))
    if module.bias_k is not None:
        raise MisfitError("head does not fit: add_bias_kv adds a key and a value that belong to no head's weights")
    return Attention(name, parts, coupled)


def _add_rows(
    parts: list[Part], coupled: list[Part], name: str, module: nn.Module, heads: int, how: str, stacked: int
) -> None:
    shape = tuple(module.weight.shape)  # type: ignore[arg-type]
    transposed = is_transposed(module)
    if (shape[1] if transposed else shape[0]) % (stacked * heads):
        raise MisfitError(f"head does not fit: {name} of shape {shape} cannot be cut into {heads} heads")
    blocks = rows_by_head(shape, heads, how, stacked=stacked, transposed=transposed)
    parts.append(Part(f"{name}.weight", module, "weight", blocks))
    bias = module._parameters.get("bias")
    if bias is not None:
        coupled.append(Part(f"{name}.bias", module, "bias", bias_by_head(len(bias), heads, stacked=stacked)))


def _projections(module: nn.Module) -> dict[str, int]:
    """Return the names of the projections to queries, keys and values, with how many each holds."""
    children = dict(module.named_children())
    for names in _NAMES:
        if all(_linear(children.get(name)) for name in names):
            return dict.fromkeys(names, 1)
    for name in _FUSED:
        if _linear(children.get(name)) and _number(module, _HEADS) is not None:
            return {name: 3}
    return {}


def _output(model: nn.Module, name: str, module: nn.Module) -> tuple[str, nn.Module] | None:
    """Return the output projection: a child, or, as in BERT and ViT, part of the neighbour called `output`."""
    places = [(name, module)]
    parent = name.rpartition(".")[0]
    if name:
        places.append((parent, model.get_submodule(parent)))
    for where, root in places:
        modules = dict(root.named_modules())
        for key in _OUTPUTS:
            found = modules.get(key)
            if found is not None and _linear(found):
                return (f"{where}.{key}" if where else key), found
    return None


def _linear(module: nn.Module | None) -> bool:
    return module is not None and (isinstance(module, nn.Linear) or is_transposed(module))


def _number(module: nn.Module, names: tuple[str, ...]) -> int | None:
    for holder in (module, getattr(module, "config", None)):
        for name in names:
            found: Any = getattr(holder, name, None)
            if isinstance(found, int):
                return found
    return None
