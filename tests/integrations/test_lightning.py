"""DistillationModule in the Trainers of lightning and pytorch_lightning."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kdcore
from kdcore.errors import WiringError
from kdcore.integrations import lightning as own_lightning
from kdcore.integrations import pytorch_lightning as own_pytorch_lightning

lightning = importlib.import_module("lightning.pytorch")
pytorch_lightning = importlib.import_module("pytorch_lightning")

PACKAGES = [(lightning, own_lightning), (pytorch_lightning, own_pytorch_lightning)]
HINT = """
version: 1
models: {teacher: {}, student: {}}
adapters:
  widen: {type: linear, inputs: {x: "student:0"}, like: "teacher:0"}
stages:
  - name: only
    train: [student, widen]
    losses:
      ce: {type: cross_entropy, weight: 0.3}
      hint: {type: mse, weight: 2, inputs: {input: widen, target: "teacher:0"}}
"""
TOKENS = """
version: 1
models: {student: {}}
stages:
  - {name: only, train: [student], losses: {ce: {type: cross_entropy, params: {reduction: tokens}}}}
"""


def net(width: int) -> nn.Sequential:
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Dropout(0.2), nn.Linear(width, 3))


def data(count: int = 10, ignored: int = 0) -> list[dict[str, Tensor]]:
    """Return samples; the first few have a label that counts for nothing."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(count, 5, generator=generator)
    return [{"input": row, "target": torch.tensor(-100 if at < ignored else at % 3)} for at, row in enumerate(rows)]


def loader(batch_size: int = 4, **options: Any) -> Any:
    return torch.utils.data.DataLoader(data(**options), batch_size)


def objective(config: str = HINT) -> kdcore.Objective:
    models = {"student": net(4), "teacher": net(8)} if "teacher" in config else {"student": net(4)}
    return kdcore.build_objective(config, models=models, example_batch=next(iter(loader())))


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.5)


def run(package: ModuleType, folder: Path, **options: Any) -> Any:
    usual = {"max_epochs": 2, "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return package.Trainer(default_root_dir=folder, accelerator="cpu", **{**usual, **options})


@pytest.mark.parametrize(("package", "own"), PACKAGES, ids=["lightning", "pytorch_lightning"])
def test_it_trains_as_a_loop_by_hand_does(package: ModuleType, own: ModuleType, tmp_path: Path) -> None:
    module, twin = own.DistillationModule(objective(), sgd), objective()
    torch.manual_seed(0)
    run(package, tmp_path, enable_checkpointing=False).fit(module, loader())
    torch.manual_seed(0)
    optimizer = sgd(list(twin.parameters()))
    for _ in range(2):
        for batch in loader():
            optimizer.zero_grad()
            twin(batch).total.backward()
            optimizer.step()
    for mine, theirs in zip(module.objective.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    exported = module.export_student()
    assert type(exported) is nn.Sequential
    assert all(
        torch.equal(a, b) for a, b in zip(exported.parameters(), twin.models["student"].parameters(), strict=True)
    )


def test_validation_and_test_log_the_means_over_all_samples(tmp_path: Path) -> None:
    module = own_lightning.DistillationModule(objective(), sgd)
    trainer = run(lightning, tmp_path, enable_checkpointing=False, max_epochs=1)
    trainer.fit(module, loader(), loader(batch_size=3))
    found = dict(trainer.callback_metrics)
    trainer.test(module, loader(batch_size=3), verbose=False)
    found.update(trainer.callback_metrics)
    student, teacher = module.export_student().eval(), module.objective._nodes["teacher"].module
    whole = next(iter(loader(batch_size=10)))
    with torch.no_grad():
        ce = F.cross_entropy(student(whole["input"]), whole["target"])
        hint = F.mse_loss(module.objective.adapters["widen"](student[0](whole["input"])), teacher[0](whole["input"]))
    for split in ("val", "test"):
        torch.testing.assert_close(found[f"{split}/ce"], ce)
        torch.testing.assert_close(found[f"{split}/hint"], hint)
        torch.testing.assert_close(found[f"{split}/loss"], 0.3 * ce + 2 * hint)
    assert found["train/loss"] == pytest.approx(0.3 * found["train/ce"] + 2 * found["train/hint"])


def test_several_validation_sets_are_logged_apart(tmp_path: Path) -> None:
    module = own_lightning.DistillationModule(objective(TOKENS))
    one, two = loader(), loader(ignored=3)
    run(lightning, tmp_path).validate(module, [one, two], verbose=False)
    found = run(lightning, tmp_path).validate(module, [one, two], verbose=False)
    metrics = {name: value for each in found for name, value in each.items()}
    student = module.export_student().eval()
    for index, batches in enumerate((one, two)):
        whole = {key: torch.cat([batch[key] for batch in batches]) for key in ("input", "target")}
        expected = F.cross_entropy(student(whole["input"]), whole["target"]).item()
        assert metrics[f"val/ce/dataloader_idx_{index}"] == pytest.approx(expected, rel=1e-5)


def test_checkpoints_hold_what_is_trained_and_training_resumes(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    keep = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
    module = own_lightning.DistillationModule(objective(), sgd)
    run(lightning, tmp_path, callbacks=[keep], max_epochs=1).fit(module, loader())
    state = torch.load(tmp_path / "epoch=0.ckpt", weights_only=False)["state_dict"]
    parts = {".".join(name.split(".")[:3]) for name in state}
    assert parts == {"objective.models.student", "objective.adapters.widen"}
    resumed = own_lightning.DistillationModule(objective(), sgd)
    for each in (module, resumed):
        torch.manual_seed(5)
        options = {"enable_checkpointing": False, "max_epochs": 2}
        run(lightning, tmp_path, **options).fit(each, loader(), ckpt_path=tmp_path / "epoch=0.ckpt")
    for mine, theirs in zip(resumed.objective.parameters(), module.objective.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    untrained = objective()
    assert not torch.equal(module.objective.models["student"][0].weight, untrained.models["student"][0].weight)


def test_the_teacher_stays_as_it_was(tmp_path: Path) -> None:
    module = own_lightning.DistillationModule(objective(), sgd)
    teacher = module.objective._nodes["teacher"].module
    before = [each.clone() for each in teacher.parameters()]
    run(lightning, tmp_path, enable_checkpointing=False).fit(module, loader(), loader())
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert not teacher.training
    assert not {id(each) for each in module.parameters()} & {id(each) for each in teacher.parameters()}


def test_accumulation_is_refused_where_lightning_would_average_wrongly(tmp_path: Path) -> None:
    options = {"accumulate_grad_batches": 2, "enable_checkpointing": False}
    with pytest.raises(WiringError, match=r"accumulate_grad_batches=2 averages batches, but 'ce'(.|\n)*StepCounts"):
        run(lightning, tmp_path, **options).fit(own_lightning.DistillationModule(objective(TOKENS), sgd), loader())
    run(lightning, tmp_path, **options).fit(own_lightning.DistillationModule(objective(), sgd), loader())


def test_without_an_optimizer_the_error_says_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(WiringError, match=r"has no optimizer(.|\n)*optimizer=lambda"):
        run(lightning, tmp_path).fit(own_lightning.DistillationModule(objective()), loader())


@pytest.mark.parametrize("library", ["lightning", "pytorch_lightning"])
def test_without_the_library_the_error_says_what_to_install(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, f"{library}.pytorch" if library == "lightning" else library, None)
    monkeypatch.delitem(sys.modules, f"kdcore.integrations.{library}")
    with pytest.raises(ImportError, match=rf"needs {library}(.|\n)*pip install kdcore\[lightning\]"):
        importlib.import_module(f"kdcore.integrations.{library}")
