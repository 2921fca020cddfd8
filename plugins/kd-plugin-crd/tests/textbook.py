"""CRD as the paper writes it: rows of the banks copied for every sample."""

from __future__ import annotations

import torch
from torch import Tensor


def scores(embedding: Tensor, bank: Tensor, contrast_index: Tensor, temperature: float) -> Tensor:
    """exp(<v, m> / temperature) of every candidate, (B, K + 1)."""
    rows = bank[contrast_index.flatten()].view(*contrast_index.shape, -1)
    return torch.exp(torch.bmm(rows, embedding.unsqueeze(2)).squeeze(2) / temperature)


def view(p: Tensor, num_samples: int, eps: float) -> Tensor:
    """Equation 18 for normalised probabilities, the positive first."""
    noise = (p.shape[1] - 1) / num_samples
    positive = torch.log(p[:, 0] / (p[:, 0] + noise + eps))
    negative = torch.log(noise / (p[:, 1:] + noise + eps))
    return -(positive.sum() + negative.sum()) / len(p)


class TextbookCRD:
    """Both views and the memory, for copies of given banks."""

    def __init__(self, student_bank: Tensor, teacher_bank: Tensor, temperature=0.07, momentum=0.5, eps=1e-7):
        self.student_bank, self.teacher_bank = student_bank.clone(), teacher_bank.clone()
        self.temperature, self.momentum, self.eps = temperature, momentum, eps
        self.normalizer = [None, None]

    def __call__(self, student: Tensor, teacher: Tensor, index: Tensor, contrast_index: Tensor) -> Tensor:
        total = torch.zeros((), dtype=student.dtype)
        for which, (embedding, bank) in enumerate(((student, self.teacher_bank), (teacher, self.student_bank))):
            out = scores(embedding, bank, contrast_index, self.temperature)
            if self.normalizer[which] is None:
                self.normalizer[which] = out.detach().mean() * len(bank)
            total = total + view(out / self.normalizer[which], len(bank), self.eps)
        for bank, embedding in ((self.student_bank, student), (self.teacher_bank, teacher)):
            moved = self.momentum * bank[index] + (1 - self.momentum) * embedding.detach()
            bank[index] = moved / moved.norm(dim=1, keepdim=True)
        return total


def negatives(index: int, targets: Tensor, count: int) -> Tensor:
    """Draw without replacement from a list of all samples of other classes."""
    others = (targets != targets[index]).nonzero().squeeze(1)
    return others[torch.randperm(len(others))[:count]]
