"""Losses against class labels: `torch.nn`'s, with the classes along any dimension and a count of labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugin_torch.loss import as_weight
from kdcore.contracts import Facts, TensorFacts
from kdcore.reduction import Reduced, check_reduction, divide

REDUCTIONS = ("mean", "sum", "tokens")


class NLLLoss(nn.Module):
    """Negative log likelihood, `torch.nn.NLLLoss`: -w_y log p_y of the class y that `target` names.

    `mean` divides by the weights of the targets that count, and is 0 where none does; `tokens`
    returns the sum and that divisor. float16 and bfloat16 are computed in float32.

    Arguments:
        weight: one number per class.
        ignore_index: a target that counts for nothing.
        reduction: `mean`, `sum`, or `tokens` for (sum, count).
        class_dim: the dimension of the classes in `input`; torch's own losses read 1.
    """

    weight: Tensor | None

    # Logits are converted inside the kernel; a copy in float32 would only cost memory.
    accepts_low_precision = True

    def __init__(
        self,
        weight: list[float] | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        class_dim: int = -1,
    ) -> None:
        super().__init__()
        check_reduction(reduction, REDUCTIONS)
        # A setting, not something learned: a run that is resumed takes the one that its config has.
        self.register_buffer("weight", as_weight(weight), persistent=False)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.class_dim = class_dim

    def setup(self, facts: Facts) -> None:
        """Refuse fewer classes than the data set has, which would fail at the first label beyond them."""
        given, target = facts.inputs.get("input"), facts.inputs.get("target")
        # The data set's classes say nothing about other labels, such as those of a rotation.
        if facts.addresses.get("target", "batch:target") != "batch:target":
            return
        if facts.num_classes is None or not isinstance(given, TensorFacts):
            return
        if isinstance(target, TensorFacts) and target.dtype.is_floating_point:
            return
        self._check_dim(given.shape)
        classes = given.shape[self.class_dim]
        if classes < facts.num_classes:
            raise ValueError(
                f"input has shape {given.shape}, {classes} classes along dimension {self.class_dim}, but the data set "
                f"has {facts.num_classes} classes: labels from {classes} on would have no place. Build the model with "
                f"{facts.num_classes} classes, or set class_dim if the classes are along another dimension"
            )

    def forward(self, input: Tensor, target: Tensor) -> Reduced:
        """Return the reduced loss of `input`, (..., C) with classes along `class_dim`, against `target`.

        Raises ValueError where shapes do not fit.
        """
        self._check(input, target)
        total = self._total(*self._arranged(input, target))
        if self.reduction == "sum":
            return total
        count = self._count(target, total.dtype)
        return (total, count) if self.reduction == "tokens" else divide(total, count)

    def count(self, target: Tensor | None = None, **others: Tensor) -> Tensor | None:
        """Return the count that `forward` will return: how many targets count, or their weights' sum.

        It is called before any forward, with those inputs that come from the batch; without
        `target` among them the count is not known, and None.
        """
        return None if target is None or self.reduction != "tokens" else self._count(target, torch.float32)

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"ignore_index={self.ignore_index}, reduction={self.reduction!r}, class_dim={self.class_dim}"

    def _total(self, input: Tensor, target: Tensor) -> Tensor:
        return self._log_likelihood(input.to(_computed_in(input)), target)

    def _log_likelihood(self, log_probs: Tensor, target: Tensor) -> Tensor:
        weight = self._weight(log_probs.dtype)
        try:
            return F.nll_loss(log_probs, target, weight, ignore_index=self.ignore_index, reduction="sum")
        except IndexError as error:
            raise self._out_of_range(target, log_probs.shape[1], error) from None

    def _out_of_range(self, target: Tensor, classes: int, error: IndexError) -> Exception:
        """Return the error for a label that the kernel has refused; before that, to look would stall an accelerator."""
        counted = target[target != self.ignore_index]
        wrong = counted[(counted < 0) | (counted >= classes)]
        if not wrong.numel():
            return error
        return ValueError(
            f"target holds {int(wrong[0])}; with {classes} classes, labels are 0 to {classes - 1} "
            f"(ignore_index, {self.ignore_index}, is left out)"
        )

    def _weight(self, dtype: torch.dtype) -> Tensor | None:
        return None if self.weight is None else self.weight.to(dtype)

    def _count(self, target: Tensor, dtype: torch.dtype) -> Tensor:
        if target.is_floating_point():
            return target.new_full((), target.numel() // target.shape[self.class_dim], dtype=dtype)
        counts = target != self.ignore_index
        if self.weight is None:
            return counts.sum(dtype=dtype)
        return (self.weight.to(dtype)[target.long().where(counts, 0)] * counts).sum()

    def _arranged(self, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Bring the classes where torch expects them: rows where they are last, else dimension 1."""
        last = self.class_dim in (-1, input.dim() - 1)
        if last and input.dim() == 2 and target.dtype is torch.int64:
            return input, target
        classes = input.shape[self.class_dim]
        if target.is_floating_point():
            target = target.reshape(-1, classes) if last else target.movedim(self.class_dim, 1)
        else:
            target = target.reshape(-1).long() if last else target.long()
        return (input.reshape(-1, classes) if last else input.movedim(self.class_dim, 1)), target

    def _check(self, input: Tensor, target: Tensor) -> None:
        self._check_dim(tuple(input.shape))
        if target.is_floating_point():
            self._check_probabilities(input, target)
        elif target.shape != _without(input.shape, self.class_dim):
            raise ValueError(
                f"target has shape {tuple(target.shape)}, but input has {tuple(input.shape)} with the classes along "
                f"dimension {self.class_dim}, so class indices need {_without(input.shape, self.class_dim)}; "
                "set class_dim if the classes are along another dimension"
            )
        if self.weight is not None and self.weight.shape != (input.shape[self.class_dim],):
            raise ValueError(
                f"weight has {self.weight.numel()} numbers, but input has shape {tuple(input.shape)}: "
                f"{input.shape[self.class_dim]} classes along dimension {self.class_dim}"
            )

    def _check_dim(self, shape: tuple[int, ...]) -> None:
        if not -len(shape) <= self.class_dim < len(shape):
            raise ValueError(f"input has shape {shape}: there is no dimension class_dim={self.class_dim}")

    def _check_probabilities(self, input: Tensor, target: Tensor) -> None:
        raise ValueError(f"target is {target.dtype}; class indices must be integers")


class CrossEntropyLoss(NLLLoss):
    """Cross entropy of logits, `torch.nn.CrossEntropyLoss`, against class indices or probabilities.

    As `NLLLoss` on log_softmax(input). Probabilities are a floating-point `target` of the shape of
    `input`; then every position counts 1, as in torch.

    Arguments:
        weight: one number per class.
        ignore_index: a class index that counts for nothing.
        reduction: `mean`, `sum`, or `tokens` for (sum, count).
        label_smoothing: from 0 to 1, how much of a target is spread over all classes.
        class_dim: the dimension of the classes in `input`; torch's own losses read 1.
    """

    def __init__(
        self,
        weight: list[float] | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        class_dim: int = -1,
    ) -> None:
        super().__init__(weight, ignore_index, reduction, class_dim)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; it must be from 0 to 1")
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Reduced:
        """Return the reduced loss of `input` against `target`, as `NLLLoss.forward`."""
        usual = self.reduction == "mean" and self.class_dim == -1 and self.weight is None
        if usual and target.dtype is torch.int64 and target.shape == input.shape[:-1] and input.dtype is torch.float32:
            # What nearly every step computes, without the questions that the general form asks.
            if target.dim() != 1:
                input, target = input.reshape(-1, input.shape[-1]), target.reshape(-1)
            try:
                total = F.cross_entropy(
                    input, target, ignore_index=self.ignore_index, reduction="sum", label_smoothing=self.label_smoothing
                )
            except IndexError as error:
                raise self._out_of_range(target, input.shape[-1], error) from None
            return total / (target != self.ignore_index).sum().clamp(min=1)
        return super().forward(input, target)

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"{super().extra_repr()}, label_smoothing={self.label_smoothing}"

    def _total(self, input: Tensor, target: Tensor) -> Tensor:
        dtype = _computed_in(input)
        if self.label_smoothing == 0 and not target.is_floating_point():
            # With `dtype` the logits are converted inside the kernel, not copied first.
            return self._log_likelihood(input.log_softmax(1, dtype=dtype), target)
        try:
            return F.cross_entropy(
                input.to(dtype),
                target.to(dtype) if target.is_floating_point() else target,
                self._weight(dtype),
                ignore_index=self.ignore_index,
                reduction="sum",
                label_smoothing=self.label_smoothing,
            )
        except IndexError as error:
            raise self._out_of_range(target, input.shape[1], error) from None

    def _check_probabilities(self, input: Tensor, target: Tensor) -> None:
        if target.shape != input.shape:
            raise ValueError(
                f"target is {target.dtype} and so taken for probabilities, but has shape {tuple(target.shape)} where "
                f"input has {tuple(input.shape)}; class indices must be integers"
            )


def _computed_in(input: Tensor) -> torch.dtype:
    return torch.promote_types(input.dtype, torch.float32)


def _without(shape: torch.Size, dim: int) -> tuple[int, ...]:
    dim %= len(shape)
    return tuple(shape[:dim] + shape[dim + 1 :])
