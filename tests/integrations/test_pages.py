"""The loops that the documentation shows run, and do what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2LMHeadModel

from kdcore import create
from kdcore.component import Component, Kind, Role
from kdcore.plugins import registry
from tests.integrations.test_transformers import MODELS, collate, gpt2, logged, samples, trainer, weights

LOOPS = Path(__file__).parents[2] / "docs" / "loops"


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs a page's only snippet in an empty folder and returns its names."""
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)

    def run(page: str) -> dict[str, Any]:
        (text,) = re.findall(r"^```python\n(.*?)^```$", (LOOPS / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)
        names: dict[str, Any] = {}
        torch.manual_seed(0)
        exec(compile(text, page, "exec"), names)
        return names

    yield run
    os.environ.clear()
    os.environ.update(before)


def test_accelerate(ran: Any, tmp_path: Path) -> None:
    names = ran("accelerate.md")
    nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 10)).load_state_dict(torch.load(tmp_path / "student.pt"))
    assert all(each.grad is None for each in names["teacher"].parameters())


@pytest.mark.slow
def test_accelerate_in_several_processes(tmp_path: Path) -> None:
    page = (LOOPS / "accelerate.md").read_text("utf-8")
    (text,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "train.py").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert torch.load(tmp_path / "student.pt").keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_transformers(ran: Any, tmp_path: Path) -> None:
    names = ran("transformers.md")
    assert {"eval_loss", "eval_ce", "eval_kd", "eval_hidden"} <= names["trainer"].evaluate().keys()
    assert names["trainer"].state.global_step == 4
    assert GPT2LMHeadModel.from_pretrained(tmp_path / "student").config.n_embd == 16


def terms_of_the_table() -> dict[str, str]:
    """Return the losses for language models with their terms, as the page of Transformers lists them."""
    page = (LOOPS / "transformers.md").read_text("utf-8")
    return dict(re.findall(r"^\| (\w+) \| `(.*)` \|$", page, re.MULTILINE))


def test_the_table_holds_every_loss_that_compares_logits_with_a_teachers() -> None:
    features = {"dist_plus", "srd"}
    sides = {"student": "student", "teacher": "teacher"}
    losses = [each.component for each in registry().all(Kind.LOSS)]
    found = {each.name for each in losses if all(_default(each, name) == side for name, side in sides.items())}
    assert found == {*terms_of_the_table(), *features} - {"cross_entropy"}


@pytest.mark.parametrize(("loss", "term"), terms_of_the_table().items())
def test_a_term_of_the_table_sees_the_labelled_positions_alone(tmp_path: Path, loss: str, term: str) -> None:
    stages = f"stages:\n  - name: only\n    train: [student]\n    losses:\n      own: {term}\n"
    made = trainer(tmp_path, MODELS + stages, gradient_accumulation_steps=2)
    batch = collate(samples(4))
    call = {key: batch[key] for key in ("input_ids", "attention_mask")}
    labels = batch["labels"][:, 1:]
    counted = labels != -100
    student, teacher = (each(**call).logits[:, :-1][counted] for each in (made.model, gpt2(8)))
    given = {"student": student, "input": student, "teacher": teacher, "target": labels[counted]}
    component = registry().find(Kind.LOSS, loss).component
    expected = create("loss", loss)(**{each.name: given[each.name] for each in component.inputs if each.required})
    torch.testing.assert_close(made.compute_loss(made.objective, batch), expected)
    before = weights(made.model).clone()
    made.train()
    assert len(logged(made, "own")) == made.state.global_step == 2
    assert not torch.equal(weights(made.model), before)


def _default(component: Component, name: str) -> str | None:
    found = component.input(name)
    return found.default if found is not None and found.role is Role.POSITIONS else None


def test_lightning(ran: Any) -> None:
    names = ran("lightning.md")
    figures = {f"{split}/{name}" for split in ("train", "val") for name in ("loss", "ce", "kd")}
    assert names["trainer"].callback_metrics.keys() == figures
    assert type(names["plain"]) is nn.Sequential
