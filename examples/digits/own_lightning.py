"""The objective of own_loop.yaml in a Lightning Trainer, which keeps loop, devices, checkpoints and logs.

python examples/digits/own_lightning.py
"""

from __future__ import annotations

import argparse
import copy
import sys

import torch
from lightning.pytorch import Trainer
from own_loop import Net, accuracy, fit, labels, objective_of
from torch.utils.data import DataLoader

import kdcore
from kdcore.integrations.lightning import DistillationModule


def optimizers(parameters: list[torch.nn.Parameter], steps: int) -> dict[str, object]:
    """Return the optimizer and a schedule over all steps, as Lightning wants them."""
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> None:
    """Train a teacher, a student alone and the same student distilled by Lightning."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps of each training (default 150)")
    parser.add_argument("--folder", default=None, help="where checkpoints and logs go; by default nowhere")
    options = parser.parse_args()

    train = DataLoader(kdcore.create("dataset", "digits", split="train"), batch_size=64, shuffle=True)
    few = DataLoader(kdcore.create("dataset", "digits", split="train", samples_per_class=20), 32, shuffle=True)
    test = DataLoader(kdcore.create("dataset", "digits", split="test"), batch_size=512)

    # Models as large as those below, so that a mistake in the config shows before any of them has trained.
    objective_of(Net(16), Net(4), few).close()
    torch.manual_seed(options.seed)
    teacher, student = Net(16), Net(4)
    alone = copy.deepcopy(student)
    fit(teacher, labels(teacher), train, options.steps)
    fit(alone, labels(alone), few, options.steps)

    objective = objective_of(teacher, student, few)
    module = DistillationModule(objective, lambda parameters: optimizers(parameters, options.steps))
    trainer = Trainer(
        max_steps=options.steps,
        default_root_dir=options.folder,
        logger=options.folder is not None,
        enable_checkpointing=options.folder is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, few)

    results = {"teacher": teacher, "student alone": alone, "student distilled": module.export_student().cpu()}
    for name, model in results.items():
        print(f"{name:20}{100 * accuracy(model.cpu(), test):.1f} %")


if __name__ == "__main__":
    try:
        main()
    except kdcore.KdcoreError as error:
        sys.exit(str(error))
