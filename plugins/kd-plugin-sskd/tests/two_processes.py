"""Two processes with parts of a batch of different sizes against one with the whole; fails if they differ."""

from __future__ import annotations

import tempfile

import torch
from kd_plugin_sskd.auxiliary import SSKDAuxiliaryLoss
from kd_plugin_sskd.loss import SSKDLoss
from torch import Tensor, multiprocessing

PARTS = slice(0, 4), slice(4, 6)


def results(images: slice) -> list[Tensor]:
    """Return values and gradients for some of the images."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(24, size, generator=generator).double() for size in (5, 5, 6, 3)]
    target = torch.randint(5, (6,), generator=generator)
    rows = [each[4 * images.start : 4 * images.stop].clone().requires_grad_() for each in rows]
    value, auxiliary = SSKDLoss()(*rows, target[images]), SSKDAuxiliaryLoss()(rows[2])
    return [
        value,
        auxiliary,
        *torch.autograd.grad(value, [rows[0], rows[2]]),
        *torch.autograd.grad(auxiliary, rows[2]),
    ]


def work(rank: int, folder: str) -> None:
    """Save one process's results."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save([each.detach() for each in results(PARTS[rank])], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def compare(parts: list[list[Tensor]]) -> None:
    """Compare with one process; the trainer averages gradients over processes."""
    for place, expected in enumerate(results(slice(0, 6))):
        first, second = (part[place] for part in parts)
        found = torch.cat([first, second]) / 2 if expected.dim() else first
        torch.testing.assert_close(found, expected.detach())
        assert expected.dim() or first == second


def main() -> None:
    """Start both and compare."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(work, (folder,), 2)
        parts = [torch.load(f"{folder}/{rank}.pt", weights_only=True) for rank in range(2)]
    compare(parts)


if __name__ == "__main__":
    main()
