"""Distillation by correlation of class probabilities and of feature maps."""

from __future__ import annotations

from torch import Tensor, nn

from kd_plugin_dist.checks import NOTHING_PLUS
from kd_plugin_dist.correlation import correlation
from kd_plugin_dist.loss import DISTLoss, check_positive, check_weights, computed_in
from kdcore.shapes import check_rank, check_same_batch, check_same_shape

CHANNEL_TERMS = ("distance", "similarity")


class DISTPlusLoss(nn.Module):
    """DIST on the logits, and the same distance of feature maps over channels and over samples.

        DIST + iota (1 - mean_bx r_bx) + kappa (1 - mean_x r_x)

    r_bx correlates the channels of sample b at position x; r_x correlates, over the samples, the sums
    of all channels at position x. Huang et al.: DIST+, 2025. `similarity` adds iota mean_bx r_bx
    instead, with the sign that torchdistill has: it rewards features that are opposite to the
    teacher's, and stands here only to reproduce its results.

    The acclimation of the teacher, the paper's other half, is a stage of its own and no part of this
    loss. In a batch of one the parts over samples are gamma and kappa, with gradient 0. The teacher gets
    no gradient. float16 and bfloat16 are computed in float32.

    Arguments:
        beta, gamma: weights of the relations between classes and between samples of the logits.
        iota: weight of the relation between channels.
        kappa: weight of the relation between samples at a position.
        tau: temperature of the logits, above 0.
        eps: centred vectors whose lengths have a product up to eps^2 correlate 0, above 0.
        channel_term: `distance` or `similarity`.
    """

    def __init__(
        self,
        beta: float = 1,
        gamma: float = 1,
        iota: float = 1,
        kappa: float = 1,
        tau: float = 1,
        eps: float = 1e-8,
        channel_term: str = "distance",
    ) -> None:
        super().__init__()
        check_weights(beta=beta, gamma=gamma, iota=iota, kappa=kappa)
        check_positive(tau=tau, eps=eps)
        if not (beta or gamma or iota or kappa):
            raise ValueError(NOTHING_PLUS)
        if channel_term not in CHANNEL_TERMS:
            raise ValueError(f"channel_term is {channel_term!r}; it must be one of {', '.join(CHANNEL_TERMS)}")
        self.logits = DISTLoss(beta, gamma, tau, eps) if beta or gamma else None
        self.iota = iota
        self.kappa = kappa
        self.eps = eps
        self.channel_term = channel_term

    def forward(self, student: Tensor, teacher: Tensor, student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
        """Return the sum of all parts.

        Arguments:
            student: logits (B, ..., C).
            teacher: logits of the same shape.
            student_feature: feature map (B, D, *spatial) of two channels or more.
            teacher_feature: feature map of the same shape.

        Raises ValueError where shapes do not fit.
        """
        check_rank(3, 5, student_feature=student_feature, teacher_feature=teacher_feature)
        check_same_shape(student_feature=student_feature, teacher_feature=teacher_feature)
        check_same_batch(student=student, student_feature=student_feature)
        if student_feature.shape[1] < 2:
            raise ValueError(
                f"student_feature has shape {tuple(student_feature.shape)}; dist_plus correlates channels "
                "in dimension 1, and needs two or more"
            )
        dtype = computed_in(student_feature, teacher_feature)
        features, wanted = student_feature.to(dtype), teacher_feature.detach().to(dtype)
        loss: Tensor = features.new_zeros(()) if self.logits is None else self.logits(student, teacher)
        if self.iota:
            similarity = correlation(features, wanted, 1, self.eps).mean()
            loss = loss + self.iota * (similarity if self.channel_term == "similarity" else 1 - similarity)
        if self.kappa:
            loss = loss + self.kappa * (1 - correlation(features.sum(1), wanted.sum(1), 0, self.eps).mean())
        return loss

    def extra_repr(self) -> str:
        """Say what was configured, beside what is said of the logits' part."""
        return f"iota={self.iota}, kappa={self.kappa}, eps={self.eps}, channel_term={self.channel_term!r}"
