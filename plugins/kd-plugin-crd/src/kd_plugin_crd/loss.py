"""Contrastive representation distillation, with its memory banks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugin_crd.blocks import Candidates
from kd_plugin_crd.checks import check_call, check_params, check_sizes, labels_of
from kd_plugin_crd.contrast import combine, noise_contrast, similarities
from kd_plugin_crd.negatives import Negatives
from kd_plugin_crd.noise import fill_with_noise
from kdcore.collective import gather
from kdcore.contracts import Facts
from kdcore.gradient import with_gradient
from kdcore.precision import without_autocast


class CRDLoss(nn.Module):
    """Tells a sample's embedding in the other network from those of other samples, which two banks remember.

        L = L(student, teacher bank) + L(teacher, student bank)
        L(v, M) = -1/B sum_b [log h(v_b, M_b) + sum_k log(1 - h(v_b, M_k))]      k over K negatives
        h(v, m) = p / (p + K/N + eps),   p = exp(<v, m> / temperature) / Z

    Tian, Krishnan, Isola: Contrastive Representation Distillation, 2020, equations 17 to 19, and the
    memory of Wu et al., 2018, that its section 3.2 takes up. Z is set by the first batch so that p has the mean 1/N,
    one for each view, and kept; to the gradient it is a constant. After each training step the rows M_b move to
    momentum M_b + (1 - momentum) v_b, and back to length one. Negatives are drawn for each sample without replacement.

    The teacher is not detached: its embedding comes from a head that is trained with the student's, and only a
    frozen network behind it gets no gradient. The gradient is first order: it cannot be differentiated
    again. float16 and bfloat16 are computed in the precision of the banks, float32 unless converted.

    In several processes the banks are equal in all: every process moves the rows of every process's samples.

    Arguments:
        num_negatives: K.
        temperature: above 0.
        momentum: how much of its old row a bank keeps, 0 to below 1.
        eps: 0 or more.
        sampling: `exact` draws negatives outside the sample's class, `relax` anywhere but the sample itself.
        num_samples: N; the length of the training set unless given.
        dim: D, size of the embeddings; that of the student's unless given.

    Buffers: `student_bank` and `teacher_bank` (N, D), `normalizer` (2,), Z of the student's view and the
    teacher's, -1 where not yet set.
    """

    # Indices of other data do not name rows of the banks.
    training_only = True

    student_bank: Tensor | None
    teacher_bank: Tensor | None
    normalizer: Tensor

    def __init__(
        self,
        num_negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        eps: float = 1e-7,
        sampling: str = "exact",
        num_samples: int | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        check_params(num_negatives, temperature, momentum, eps, sampling)
        self.num_negatives = num_negatives
        self.temperature = temperature
        self.momentum = momentum
        self.eps = eps
        self.sampling = sampling
        self.num_samples = num_samples
        self.dim = dim
        self.negatives: Negatives | None = None
        for name in ("student_bank", "teacher_bank"):
            self.register_buffer(name, None)
        self.register_buffer("normalizer", torch.full((2,), -1.0))
        if num_samples is not None and dim is not None:
            self._make_banks(num_samples, dim)

    def setup(self, facts: Facts) -> None:
        """Make the banks for the training set and the embeddings, and see where negatives come from.

        Raises ValueError where a size is unknown or the training set has too few samples for `num_negatives`.
        """
        num_samples, dim = check_sizes(facts, self.num_samples, self.dim)
        if self.student_bank is None:
            self._make_banks(num_samples, dim)
        if "contrast_index" not in facts.inputs:
            targets = labels_of(facts, num_samples) if self.sampling == "exact" else None
            self._draw_from(Negatives(num_samples, targets))

    @without_autocast
    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        index: Tensor,
        target: Tensor | None = None,
        contrast_index: Tensor | None = None,
    ) -> Tensor:
        """Return the loss; in training, with gradient enabled, also move the rows of `index` in the banks.

        Arguments:
            student: embeddings (B, D), of length one.
            teacher: the same of the teacher.
            index: (B,), the samples' places in the training set.
            target: (B,), labels whose classes negatives are not drawn from; the data set's own unless given.
            contrast_index: (B, K + 1), the positive first, instead of drawing.

        Raises ValueError where shapes do not fit, or an index or label is out of range.
        """
        if self.student_bank is None or self.teacher_bank is None:
            raise ValueError("crd has no banks yet: call setup(facts), or give num_samples and dim")
        classes = self.negatives.num_classes if self.negatives is not None else 0
        check_call(self.student_bank, classes, student, teacher, index, target, contrast_index)
        contrast_index = self._draw(index, target) if contrast_index is None else contrast_index.long()
        dtype = torch.promote_types(student.dtype, self.student_bank.dtype)
        student, teacher = student.to(dtype), teacher.to(dtype)
        remember = self.training and torch.is_grad_enabled()
        views = (student, self.teacher_bank.to(dtype)), (teacher, self.student_bank.to(dtype))
        if self._known():
            candidates = Candidates(contrast_index, len(self.student_bank))
            by_student, by_teacher = (self._by_blocks(which, *view, candidates) for which, view in enumerate(views))
        else:
            by_student, by_teacher = (
                self._at_once(which, *view, contrast_index, remember) for which, view in enumerate(views)
            )
        if remember:
            self._move(index, student, teacher)
        return by_student + by_teacher

    def extra_repr(self) -> str:
        """Say what was configured."""
        return (
            f"num_negatives={self.num_negatives}, temperature={self.temperature}, momentum={self.momentum}, "
            f"eps={self.eps}, sampling={self.sampling!r}, num_samples={self.num_samples}, dim={self.dim}"
        )

    def _make_banks(self, num_samples: int, dim: int) -> None:
        self.num_samples, self.dim = num_samples, dim
        bound = 1 / math.sqrt(dim / 3)
        for name in ("student_bank", "teacher_bank"):
            setattr(self, name, fill_with_noise(self.normalizer.new_empty(num_samples, dim), bound))

    def _draw_from(self, negatives: Negatives) -> None:
        if self.num_negatives > negatives.fewest:
            left_out = "the sample itself" if negatives.order is None else f"those of class {negatives.largest_class}"
            raise ValueError(
                f"num_negatives is {self.num_negatives} but of {negatives.num_samples} samples only "
                f"{negatives.fewest} are left without {left_out}; lower num_negatives"
                + (", or give sampling: relax" if self.num_negatives < negatives.num_samples else "")
            )
        self.negatives = negatives.to(self.normalizer.device)

    def _draw(self, index: Tensor, target: Tensor | None) -> Tensor:
        """Return (B, K + 1) places in the banks, that of the sample itself first."""
        if self.negatives is None:
            if self.sampling == "exact":
                raise ValueError("crd does not know the classes to draw negatives from: call setup(facts) with targets")
            assert self.num_samples is not None
            self._draw_from(Negatives(self.num_samples))
        assert self.negatives is not None
        drawn = self.negatives.draw(index, self.num_negatives, target)
        return torch.cat([index.unsqueeze(1), drawn], 1)

    def _known(self) -> bool:
        """Whether Z is set, where one may look: an accelerator would wait, and a compiled graph be split."""
        normalizer = self.normalizer
        return normalizer.device.type == "cpu" and not torch.compiler.is_compiling() and bool((normalizer > 0).all())

    def _by_blocks(self, view: int, embedding: Tensor, bank: Tensor, candidates: Candidates) -> Tensor:
        with torch.no_grad():
            log_normalizer = self.normalizer[view].log()
            value, gradient = candidates.contrast(embedding, bank, log_normalizer, self.temperature, self.eps)
        return with_gradient(embedding, value, gradient)

    def _at_once(self, view: int, embedding: Tensor, bank: Tensor, contrast_index: Tensor, remember: bool) -> Tensor:
        with torch.no_grad():
            scores = similarities(embedding, bank, contrast_index).div_(self.temperature)
            scores -= self._log_normalizer(view, scores, remember)
            noise = (contrast_index.shape[1] - 1) / len(bank)
            value, slope = noise_contrast(scores, noise, self.eps)
            gradient = combine(slope.div_(self.temperature), bank, contrast_index)
        return with_gradient(embedding, value, gradient)

    def _log_normalizer(self, view: int, scores: Tensor, remember: bool) -> Tensor:
        """Return log Z of a view; where it is not set, that of these scores, which training keeps."""
        known = self.normalizer[view]
        if self._known():
            return known.log()
        rows = gather(scores.logsumexp(1)) if remember else scores.logsumexp(1)
        assert self.num_samples is not None
        fresh = rows.logsumexp(0) + math.log(self.num_samples / scores.shape[1]) - math.log(len(rows))
        chosen = torch.where(known > 0, known.clamp_min(0).log(), fresh)
        if remember:
            limits = torch.finfo(known.dtype)
            self.normalizer[view] = torch.where(known > 0, known, chosen.exp().clamp(limits.tiny, limits.max))
        return chosen

    @torch.no_grad()
    def _move(self, index: Tensor, student: Tensor, teacher: Tensor) -> None:
        index = gather(index)
        for bank, embedding in ((self.student_bank, student), (self.teacher_bank, teacher)):
            assert bank is not None
            old, new = bank[index], gather(embedding).to(bank.dtype)
            bank[index] = F.normalize(old.lerp(new, 1 - self.momentum))
