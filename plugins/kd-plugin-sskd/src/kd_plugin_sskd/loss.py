"""Distillation of labels, logits and self-supervised similarities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugin_sskd.checks import NOTHING
from kd_plugin_sskd.rows import check_rows, cosines, full_precision, originals, rotations
from kdcore.collective import gather, gather_with_gradient
from kdcore.precision import without_autocast
from kdcore.reduction import check_reduction, divide
from kdcore.shapes import check_rank, check_same_batch, check_same_shape


class SSKDLoss(nn.Module):
    """Labels, logits, and the similarities by which the teacher tells rotated images apart.

        L = w_1 CE(images) + w_2 KL(images) + w_3 KL(similarities) + w_4 KL(rotated images)

    The first two are those of ordinary distillation. The third compares the distributions, for each rotated
    image, of its cosine with every image; the fourth the logits of rotated images. Both count only where the
    teacher is right, and in the best `ratio` of the places where it is wrong, by the rank it gives to the truth.
    A divergence at temperature T is multiplied by T^2.

    Xu, Liu, Li, Loy: Knowledge Distillation Meets Self-Supervision, 2020, equations 5 to 8. Where places have one
    rank, the earlier rows are kept.

    Evaluation data need not be rotated: in eval mode, where there are as many labels as rows, all rows are images as
    they are, and the first two losses count.

    In several processes the batch is that of all of them.

    The teacher's inputs get no gradient. float16 and bfloat16 are computed in float32.

    Arguments:
        kl_temperature, ss_temperature, tf_temperature: above 0, of KL(images), the similarities, the rotated images.
        ss_ratio, tf_ratio: 0 to 1, how many of the teacher's errors are kept.
        loss_weights: w_1 to w_4.
        reduction: `mean` or `sum` over the rows that count, in each of the four.
    """

    def __init__(
        self,
        kl_temperature: float = 4.0,
        ss_temperature: float = 0.5,
        tf_temperature: float = 4.0,
        ss_ratio: float = 0.75,
        tf_ratio: float = 1.0,
        loss_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        temperatures = {"kl_temperature": kl_temperature, "ss_temperature": ss_temperature}
        for name, value in {**temperatures, "tf_temperature": tf_temperature}.items():
            if not value > 0:
                raise ValueError(f"{name} is {value}; it must be above 0")
        for name, value in {"ss_ratio": ss_ratio, "tf_ratio": tf_ratio}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it must be from 0 to 1")
        if len(loss_weights) != 4:
            raise ValueError(f"loss_weights has {len(loss_weights)} numbers; it needs 4")
        if not any(loss_weights):
            raise ValueError(NOTHING)
        check_reduction(reduction, ("mean", "sum"))
        self.kl_temperature = kl_temperature
        self.ss_temperature = ss_temperature
        self.tf_temperature = tf_temperature
        self.ss_ratio = ss_ratio
        self.tf_ratio = tf_ratio
        self.loss_weights = tuple(loss_weights)
        self.reduction = reduction

    @without_autocast
    def forward(
        self, student: Tensor, teacher: Tensor, student_embedding: Tensor, teacher_embedding: Tensor, target: Tensor
    ) -> Tensor:
        """Return the weighted sum.

        Arguments:
            student: logits (4 n, C), an image and its three rotations after one another.
            teacher: logits of the same shape.
            student_embedding: (4 n, D).
            teacher_embedding: (4 n, D'), D' need not be D.
            target: labels (n,), one for each image.

        Raises ValueError where shapes do not fit, or rows do not come in fours.
        """
        rotated_too = self.training or len(target) != len(student)
        _check(student, teacher, student_embedding, teacher_embedding, target, rotated_too)
        student, student_embedding = (
            gather_with_gradient(full_precision(each)) for each in (student, student_embedding)
        )
        teacher, teacher_embedding = (gather(full_precision(each)) for each in (teacher, teacher_embedding))
        target = gather(target)
        images = originals(student) if rotated_too else student
        losses = self._of_images(images, originals(teacher) if rotated_too else teacher, target)
        if rotated_too:
            losses += self._of_rotations(student, teacher, student_embedding, teacher_embedding, target)
        return torch.stack([weight * loss for weight, loss in zip(self.loss_weights, losses, strict=False)]).sum()

    def extra_repr(self) -> str:
        """Say what was configured."""
        return (
            f"kl_temperature={self.kl_temperature}, ss_temperature={self.ss_temperature}, "
            f"tf_temperature={self.tf_temperature}, ss_ratio={self.ss_ratio}, tf_ratio={self.tf_ratio}, "
            f"loss_weights={list(self.loss_weights)}, reduction={self.reduction!r}"
        )

    def _of_images(self, student: Tensor, teacher: Tensor, target: Tensor) -> list[Tensor]:
        return [
            F.cross_entropy(student, target, reduction=self.reduction),
            self._reduce(_divergence(student, teacher, self.kl_temperature)),
        ]

    def _of_rotations(
        self, student: Tensor, teacher: Tensor, student_embedding: Tensor, teacher_embedding: Tensor, target: Tensor
    ) -> list[Tensor]:
        origin = torch.arange(3 * len(target), device=target.device) // 3
        similarity, teacher = cosines(teacher_embedding), rotations(teacher)
        pairs = _divergence(cosines(student_embedding), similarity, self.ss_temperature)
        rows = _divergence(rotations(student), teacher, self.tf_temperature)
        return [
            self._reduce(pairs, kept(similarity, origin, self.ss_ratio)),
            self._reduce(rows, kept(teacher, target[origin], self.tf_ratio)),
        ]

    def _reduce(self, losses: Tensor, keep: Tensor | None = None) -> Tensor:
        if keep is None:
            return losses.mean() if self.reduction == "mean" else losses.sum()
        total = losses.where(keep, 0).sum()
        return divide(total, keep.sum()) if self.reduction == "mean" else total


def kept(scores: Tensor, truth: Tensor, ratio: float) -> Tensor:
    """Return which rows (R,) of scores (R, C) count: those that rank the truth first, and the best of the others.

    Of the others, the share `ratio`, rounded down, by the rank of the truth and then by row.
    """
    rank = (scores > scores.gather(1, truth.unsqueeze(1))).sum(1)
    right = (rank == 0).sum()
    count = right + ((len(rank) - right) * ratio).floor()
    place = torch.empty_like(rank).scatter_(0, rank.argsort(stable=True), torch.arange(len(rank), device=rank.device))
    return place < count


def _divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(teacher || student) of each row, at temperature T."""
    log_q = (student / temperature).log_softmax(1)
    p = (teacher / temperature).softmax(1)
    return temperature**2 * F.kl_div(log_q, p, reduction="none").sum(1)


def _check(
    student: Tensor,
    teacher: Tensor,
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    target: Tensor,
    rotated_too: bool,
) -> None:
    rows = {"student": student, "teacher": teacher}
    embeddings = {"student_embedding": student_embedding, "teacher_embedding": teacher_embedding}
    if rotated_too:
        check_rows(**rows, **embeddings)
    check_rank(2, 2, **rows, **embeddings)
    check_same_shape(**rows)
    check_same_batch(**rows, **embeddings)
    check_rank(1, 1, target=target)
    if target.is_floating_point() or target.is_complex() or target.dtype is torch.bool:
        raise ValueError(f"target has dtype {target.dtype}; class indices are needed")
    if rotated_too and 4 * len(target) != len(student):
        raise ValueError(
            f"target has {len(target)} labels for {len(student)} rows; it needs one for each image, a fourth as many: "
            "the data set `rotated` makes such batches of any other"
        )
    classes = student.shape[1]
    # An accelerator is not waited for; there the cross entropy stops by itself.
    looked_at = target.device.type == "cpu" and not torch.compiler.is_compiling()
    if looked_at and not 0 <= int(target.min()) <= int(target.max()) < classes:
        raise ValueError(
            f"target has labels from {int(target.min())} to {int(target.max())}, but student has {classes} classes"
        )
