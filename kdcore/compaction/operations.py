"""The operations of a program by what they do; names are those of torch's ATen library."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx

from kdcore.compaction.program import Step


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# They only move elements, so they run as well on masks, or on the numbers of the elements.
STRUCTURAL = _names(
    """view _unsafe_view reshape _reshape_alias permute transpose t unsqueeze squeeze flatten unflatten expand expand_as
    view_as clone contiguous detach alias cat concat stack split split_with_sizes chunk unbind select slice narrow
    repeat tile movedim moveaxis swapaxes swapdims flip roll constant_pad_nd pad pixel_shuffle pixel_unshuffle
    channel_shuffle mT numpy_T adjoint lift_fresh_copy dropout feature_dropout alpha_dropout"""
)
# Of these, what is cut out may depend on the input's size.
CUTS = _names("slice select narrow")
CHOICES = CUTS | {"unbind"}
SPLITS = _names("split split_with_sizes chunk")
PADS = _names("constant_pad_nd pad")
VIEWS = _names("view _unsafe_view _reshape_alias")
IDENTITIES = _names("dropout feature_dropout alpha_dropout")
NORMS = _names("layer_norm native_layer_norm rms_norm _fused_rms_norm")
BATCH_NORMS = _names("batch_norm _native_batch_norm_legit_no_training")
GROUP_NORMS = _names("group_norm native_group_norm")
REDUCTIONS = _names("mean sum amax amin var std linalg_vector_norm logsumexp prod any all")
SOFTMAX = _names("softmax _softmax log_softmax _log_softmax cumsum safe_softmax _safe_softmax")
MATMULS = _names("matmul mm bmm addmm baddbmm")
CONTRACTIONS = MATMULS | {"linear"}
PRODUCTS = _names("mul div")
SAME_SHAPE = _names("to _to_copy type_as float prelu")
CONVOLUTION = re.compile(r"^conv([123])d$")
SPATIAL = re.compile(r"^_?(adaptive_)?(avg|max|lp|fractional_max)_pool|^_?upsample_|^(reflection|replication)_pad")


def is_convolution(step: Step) -> bool:
    """Whether a step is a convolution, not a transposed one."""
    return CONVOLUTION.match(step.op) is not None


def is_spatial(step: Step) -> bool:
    """Whether a step works over space alone, channel by channel: pooling, resizing, reflecting borders."""
    return SPATIAL.match(step.op) is not None


def is_pointwise(step: Step) -> bool:
    """Whether each element of the output depends on the elements at its own place alone."""
    return step.op in SAME_SHAPE or step.pointwise


def spatial_dims(step: Step) -> int:
    """Return over how many trailing dimensions a convolution or pooling works."""
    found = re.search(r"([123])d", step.op)
    return int(found[1]) if found else 2


def is_padded(step: Step) -> bool:
    """Whether a convolution or pooling adds a border to its input."""
    padding = step.arguments.get("padding", 0)
    if isinstance(padding, str):
        return padding != "valid"
    values = padding if isinstance(padding, (list, tuple)) else [padding]
    return any(isinstance(each, fx.Node) or each for each in values)


def run_on(step: Step, replace: Callable[[fx.Node], Any], filling: Any) -> Any:
    """Run a structural step on other tensors; what padding adds is `filling`."""
    arguments = {key: fx.map_arg(value, replace) for key, value in step.arguments.items()}
    if step.op in PADS:
        arguments["value"] = filling
    if step.op in IDENTITIES:
        return arguments["input"]
    if step.op in VIEWS:
        # The other tensors need not be laid out in memory as those of the program.
        return arguments["self"].reshape(arguments["size"])
    schema = step.target._schema
    args = [arguments[each.name] for each in schema.arguments if not each.kwarg_only]
    kwargs = {each.name: arguments[each.name] for each in schema.arguments if each.kwarg_only}
    return step.target(*args, **kwargs)


def any_but(mask: Tensor, dim: int) -> Tensor:
    """Return for each index of a dimension whether the mask is true anywhere there."""
    others = tuple(each for each in range(mask.dim()) if each != dim % mask.dim())
    return mask.any(others) if others else mask
