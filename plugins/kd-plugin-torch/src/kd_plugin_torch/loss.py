"""The losses of torch.nn behind checked inputs; the arithmetic is torch's own."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.reduction import check_reduction
from kdcore.shapes import check_rank, check_same_shape

DEPRECATED = ("size_average", "reduce")
WEIGHTS = ("weight", "pos_weight")


def adapt(loss: type[nn.Module], *alike: str, reductions: tuple[str, ...] = ("mean", "sum")) -> type[nn.Module]:
    """Return `loss` as a component of the same name.

    It takes torch's arguments by keyword, without the deprecated ones, and weights as lists of
    numbers. The inputs named by `alike` must have one shape, because torch would broadcast them,
    and get one dtype, at least float32. No element at all makes a loss of 0.

    Raises ValueError where shapes differ, or for a reduction that is not of `reductions`.
    """
    parameters = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for each in inspect.signature(loss).parameters.values()
        if each.name not in DEPRECATED
    ]
    signature = inspect.signature(loss.forward)

    def __init__(self: nn.Module, **params: Any) -> None:  # noqa: N807 - becomes the class's
        check_reduction(params.get("reduction", "mean"), reductions)
        weights = {name: as_weight(params[name]) for name in WEIGHTS if name in params}
        loss.__init__(self, **{**params, **weights})

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        inputs = signature.bind(self, *args, **kwargs).arguments
        tensors: dict[str, Tensor] = {name: inputs[name] for name in alike}
        if any(each.numel() for each in tensors.values()):
            check_same_shape(**tensors)
        dtype = functools.reduce(torch.promote_types, (each.dtype for each in tensors.values()), torch.float32)
        first = tensors[alike[0]]
        if first.numel() == 0:
            return first.sum(dtype=dtype)
        _match_weights(self, dtype)
        cast = {name: value.to(dtype) for name, value in inputs.items() if name in alike or _is_floating(value)}
        return loss.forward(**{**inputs, **cast})  # type: ignore[no-any-return]

    forward.__signature__ = signature  # type: ignore[attr-defined]
    namespace = {
        "__doc__": loss.__doc__,
        "__module__": __name__,
        "__signature__": inspect.Signature(parameters),
        "__init__": __init__,
        "forward": forward,
    }
    return type(loss.__name__, (loss,), namespace)


def as_weight(weight: list[float] | Tensor | None) -> Tensor | None:
    """Return the numbers of a config as a tensor of torch's default dtype."""
    if weight is None or isinstance(weight, Tensor):
        return weight
    return torch.tensor(weight, dtype=torch.get_default_dtype())


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _match_weights(module: nn.Module, dtype: torch.dtype) -> None:
    # Several of torch's kernels refuse weights of another dtype than their input's.
    for name in WEIGHTS:
        weight = getattr(module, name, None)
        if weight is not None and weight.dtype != dtype:
            setattr(module, name, weight.to(dtype))


MSELoss = adapt(nn.MSELoss, "input", "target")
L1Loss = adapt(nn.L1Loss, "input", "target")
SmoothL1Loss = adapt(nn.SmoothL1Loss, "input", "target")
HuberLoss = adapt(nn.HuberLoss, "input", "target")
KLDivLoss = adapt(nn.KLDivLoss, "input", "target", reductions=("mean", "sum", "batchmean"))
PoissonNLLLoss = adapt(nn.PoissonNLLLoss, "log_input", "target")
GaussianNLLLoss = adapt(nn.GaussianNLLLoss, "input", "target")
BCELoss = adapt(nn.BCELoss, "input", "target")
BCEWithLogitsLoss = adapt(nn.BCEWithLogitsLoss, "input", "target")
SoftMarginLoss = adapt(nn.SoftMarginLoss, "input", "target")
HingeEmbeddingLoss = adapt(nn.HingeEmbeddingLoss, "input", "target")
MultiLabelSoftMarginLoss = adapt(nn.MultiLabelSoftMarginLoss, "input", "target")
MultiMarginLoss = adapt(nn.MultiMarginLoss, "input")
MarginRankingLoss = adapt(nn.MarginRankingLoss, "input1", "input2", "target")
TripletMarginLoss = adapt(nn.TripletMarginLoss, "anchor", "positive", "negative")
CTCLoss = adapt(nn.CTCLoss, "log_probs")


class MultiLabelMarginLoss(adapt(nn.MultiLabelMarginLoss, "input")):  # type: ignore[misc]
    """`torch.nn.MultiLabelMarginLoss`, also where it is compiled."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compare `input` (N, C) or (C,) with the classes of `target`, of its shape; the first -1 of a row ends it."""
        # What torch compiles this loss to reads on where a row has ended, and gives another value.
        if torch.compiler.is_compiling() and input.shape == target.shape and input.numel():
            return _multi_label_margin(
                input.to(torch.promote_types(input.dtype, torch.float32)), target, self.reduction
            )
        return super().forward(input, target)  # type: ignore[no-any-return]


def _multi_label_margin(input: Tensor, target: Tensor, reduction: str) -> Tensor:
    named = (target >= 0).cumprod(-1).bool()
    index = target.where(named, 0)
    is_target = torch.zeros_like(target).scatter_add(-1, index, named.long()) > 0
    hinges = (1 - input.gather(-1, index).unsqueeze(-1) + input.unsqueeze(-2)).clamp(min=0)
    counts = named.unsqueeze(-1) & ~is_target.unsqueeze(-2)
    rows = hinges.masked_fill(~counts, 0).sum((-1, -2)) / input.shape[-1]
    return rows.mean() if reduction == "mean" else rows.sum()


class CosineEmbeddingLoss(nn.Module):
    """`torch.nn.CosineEmbeddingLoss` for embeddings of any rank, similar unless `target` says otherwise.

        1 - cos(x1, x2)  where target = 1,    max(0, cos(x1, x2) - margin)  where target = -1

    Arguments:
        margin: from -1 to 1.
        reduction: `mean` or `sum` over the pairs.
    """

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__()
        check_reduction(reduction, ("mean", "sum"))
        self.margin = margin
        self.reduction = reduction

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor | None = None) -> Tensor:
        """Compare `input1` and `input2`, (..., D), by `target`, (...) of 1 and -1.

        Raises ValueError where shapes do not fit.
        """
        check_rank(1, input1=input1)
        if input1.numel() or input2.numel():
            check_same_shape(input1=input1, input2=input2)
        if target is None:
            target = input1.new_ones(input1.shape[:-1])
        elif target.shape != input1.shape[:-1]:
            raise ValueError(
                f"target has shape {tuple(target.shape)}; it needs one entry per embedding, "
                f"{tuple(input1.shape[:-1])}, because input1 has shape {tuple(input1.shape)}"
            )
        if input1.numel() == 0:
            return input1.sum()
        dtype = torch.promote_types(torch.promote_types(input1.dtype, input2.dtype), torch.float32)
        x1, x2 = (each.to(dtype).reshape(-1, each.shape[-1]) for each in (input1, input2))
        loss: Tensor = F.cosine_embedding_loss(x1, x2, target.reshape(-1), self.margin, reduction=self.reduction)
        return loss
