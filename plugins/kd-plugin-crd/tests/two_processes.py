"""Two processes with halves of a batch against one with the whole; fails if they differ."""

from __future__ import annotations

import tempfile

import torch
import torch.nn.functional as F
from kd_plugin_crd.loss import CRDLoss
from torch import Tensor, multiprocessing

PARTS = slice(0, 3), slice(3, 6)


def results(samples: slice) -> list[Tensor]:
    """Return the value of a second step and the state after it, for some of the samples."""
    torch.manual_seed(0)
    loss = CRDLoss(num_negatives=5, num_samples=20, dim=4).double()
    value = torch.zeros(())
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        pair = [F.normalize(torch.randn(6, 4, generator=generator).double()) for _ in range(2)]
        candidates = torch.stack([torch.randperm(20, generator=generator)[:6] for _ in range(6)])[samples]
        student, teacher = (each[samples].requires_grad_() for each in pair)
        value = loss(student, teacher, candidates[:, 0].contiguous(), contrast_index=candidates)
    return [value, *loss.buffers()]


def work(rank: int, folder: str) -> None:
    """Save one process's results."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save([each.detach() for each in results(PARTS[rank])], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def compare(parts: list[list[Tensor]]) -> None:
    """Compare with one process: the mean of the values, and the same state in both."""
    whole = results(slice(0, 6))
    assert len(whole) == 4
    torch.testing.assert_close((parts[0][0] + parts[1][0]) / 2, whole[0].detach())
    for part in parts:
        torch.testing.assert_close(part[1:], whole[1:])


def main() -> None:
    """Start both and compare."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(work, (folder,), 2)
        parts = [torch.load(f"{folder}/{rank}.pt", weights_only=True) for rank in range(2)]
    compare(parts)


if __name__ == "__main__":
    main()
