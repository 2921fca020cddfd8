"""Every example under examples/, run to its end on a budget of two steps per stage."""

from __future__ import annotations

import json
import math
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

import kdcore
from kdcore.config.config import Config
from kdcore.engine.progress import Progress
from kdcore.pipeline.assembly import Assembly
from kdcore.plugins import Registry

ROOT = Path(__file__).resolve().parents[1]
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "examples").rglob("*.yaml"))}
COMMAND = re.compile(r"^#\s+((?:kd (?:run|search)|python) .+?)(?:\s{3,}.*)?$", re.MULTILINE)


def command(name: str) -> list[str]:
    """Return the command that an example's header gives."""
    found = COMMAND.search(FILES[name].read_text(encoding="utf-8"))
    assert found, f"the header of {name} says no `kd run ...`, `kd search ...` or `python ...`"
    return shlex.split(found[1])


RUNS = [name for name in FILES if command(name)[0] == "kd"]
SCRIPTS = [name for name in FILES if command(name)[0] == "python"]


def registry_of(name: str) -> Registry:
    """Return the installed plugins and those that the header's command adds."""
    registry = Registry.discover()
    words = command(name)
    for option, value in pairwise(words):
        if option == "--plugin":
            registry.load_file(ROOT / value)
    return registry


def tiny(name: str, output_dir: Path) -> list[str]:
    """Return overrides: one epoch of two steps in every stage."""
    stages = range(len(kdcore.load_config(FILES[name], plugins=registry_of(name)).stages))
    budget = [f"stages.{index}.{what}" for index in stages for what in ("epochs=1", "steps_per_epoch=2")]
    return [*budget, "device=cpu", f"output_dir={json.dumps(str(output_dir))}"]


class Watch(Progress):
    """Counts which modules run while a stage trains."""

    def __init__(self) -> None:
        self.calls: dict[int, Counter[nn.Module]] = defaultdict(Counter)
        self.stage = 0
        self.training = False

    def stage_started(self, index: int) -> None:
        self.stage = index

    def epoch_started(self, epoch: int, step: int = 0) -> None:
        self.training = True

    def epoch_ended(self, epoch: int, *_: object) -> None:
        self.training = False

    def ran(self, module: nn.Module, *_: object) -> None:
        if self.training:
            self.calls[self.stage][module] += 1


@dataclass
class Finished:
    """A run that is over, and the models it left in memory."""

    config: Config
    folder: Path
    assembly: Assembly
    watch: Watch
    initial: dict[str, dict[str, Tensor]]

    def json(self, file: str) -> Any:
        """Read a JSON file of the run folder."""
        return json.loads((self.folder / file).read_text(encoding="utf-8"))

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl."""
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]

    def weights(self, model: str) -> dict[str, Tensor]:
        """Read the final weights of a model."""
        return safetensors.torch.load_file(self.folder / f"{model}.safetensors")

    def calls(self, stage: str, path: str) -> int:
        """Return how often the module at `<model>.<path>` ran while a stage trained."""
        model, _, inner = path.partition(".")
        index = next(each.index for each in self.config.stages if each.name == stage)
        return self.watch.calls[index][self.assembly.module(model).get_submodule(inner)]

    def trained(self) -> list[str]:
        """Return the models that some stage trains."""
        return [name for name in self.config.models if any(name in stage.train for stage in self.config.stages)]

    def twins(self) -> dict[str, dict[str, Tensor]]:
        """Return the weights of the models that no stage trains and that begin as another model has ended."""
        starts = {name: start for stage in self.config.stages for name, start in stage.start.items()}
        return {
            name: safetensors.torch.load_file(self.folder / "checkpoints" / start.stage / f"{start.model}.safetensors")
            for name, start in starts.items()
            if name not in self.trained()
        }


def finish(name: str, output_dir: Path) -> Finished:
    """Run an example on the tiny budget, watching its modules."""
    registry = registry_of(name)
    config = kdcore.load_config(FILES[name], overrides=tiny(name, output_dir), plugins=registry)
    initial = {key: copied(model) for key, model in Assembly.build(config, torch.device("cpu")).models.items()}
    watch, built = Watch(), []
    build = Assembly.build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Assembly, "build", lambda *args, **kwargs: built.append(build(*args, **kwargs)) or built[-1])
        hook = register_module_forward_hook(watch.ran)
        try:
            folder = kdcore.run(config, registry=registry, progress=watch)
        finally:
            hook.remove()
    return Finished(config, folder, built[-1], watch, initial)


def copied(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's weights as they are now."""
    return {key: value.clone() for key, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that runs an example, once for all tests."""
    done: dict[str, Finished] = {}

    def get(name: str) -> Finished:
        if name not in done:
            done[name] = finish(name, tmp_path_factory.mktemp("runs"))
        return done[name]

    return get


def called(words: list[str], *more: object) -> str:
    """Run a header's command in a process of its own and return what it prints."""
    program = {"kd": [sys.executable, "-m", "kdcore"], "python": [sys.executable]}[words[0]]
    done = subprocess.run(
        [*program, *words[1:], *map(str, more)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", FILES)
def test_the_header_names_the_file_and_the_readme_lists_it(name: str) -> None:
    words = command(name)
    named = [word for word in words if word.startswith("examples/")]
    assert FILES[name].stem in {Path(word).stem for word in named}
    assert all((ROOT / word).is_file() for word in named)
    readme = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert f"({FILES[name].relative_to(ROOT / 'examples').as_posix()})" in readme


@pytest.mark.parametrize("name", RUNS)
def test_a_run_leaves_a_complete_folder(name: str, finished: Any) -> None:
    done: Finished = finished(name)
    again = kdcore.load_config(done.folder / "config.yaml", plugins=registry_of(name))
    assert again.resolved == done.config.resolved
    assert done.json("environment.json")["kdcore"] == kdcore.__version__
    results = done.json("results.json")
    assert results["status"] == "completed"
    # Some methods are for training by their nature: CRD's memory banks know no other samples.
    assert [text for text in results["warnings"] if "because they exist in training only" not in text] == []
    assert [each["epochs"] for each in results["stages"]] == [1] * len(done.config.stages)
    report = (done.folder / "report.html").read_text(encoding="utf-8")
    assert done.config.name in report
    assert all(row["title"] in report for row in results["rows"])


def for_training_only(term: Any) -> bool:
    return bool(getattr(term.loss.registered.factory(), "training_only", False))


@pytest.mark.parametrize("name", RUNS)
def test_a_run_measures_every_epoch(name: str, finished: Any) -> None:
    done: Finished = finished(name)
    lines = done.metrics()
    assert [(line["stage"], line["epoch"], line["step"]) for line in lines] == [
        (stage.name, 0, 2) for stage in done.config.stages
    ]
    for line, stage in zip(lines, done.config.stages, strict=True):
        for split in stage.data.keys() - {"test"}:
            terms = [term for term in stage.terms if split == "train" or not for_training_only(term)]
            expected = {f"{split}/loss", *(f"{split}/losses/{term.name}" for term in terms)}
            assert expected <= line["metrics"].keys()
        assert all(math.isfinite(value) for value in line["metrics"].values())
    rows = done.json("results.json")["rows"]
    assert {row["model"] for row in rows} == done.config.models.keys() - done.twins().keys()
    assert all(0 <= row["metrics"]["accuracy"] <= 1 for row in rows)


@pytest.mark.parametrize("name", RUNS)
def test_the_weights_fit_a_fresh_model_and_are_trained(name: str, finished: Any) -> None:
    done: Finished = finished(name)
    for model in done.trained():
        weights, initial = done.weights(model), done.initial[model]
        fresh = done.config.models[model].part.build()
        fresh.load_state_dict(weights, strict=True)
        learned = [key for key, _ in fresh.named_parameters()]
        assert all(not torch.equal(weights[key], initial[key]) for key in learned), model


@pytest.mark.parametrize("name", RUNS)
def test_what_a_stage_does_not_train_keeps_every_bit(name: str, finished: Any) -> None:
    done: Finished = finished(name)
    for model in done.config.models:
        # Written when the last stage that trains it ended: any later change would show.
        saved = done.weights(model) if model in done.trained() else {**done.initial, **done.twins()}[model]
        live = done.assembly.models[model].state_dict()
        assert saved.keys() == live.keys()
        assert all(torch.equal(saved[key], live[key]) for key in saved), model


def test_hints_stop_both_models_at_the_hinted_block(finished: Any) -> None:
    done: Finished = finished("examples/digits/fitnet.yaml")
    for model in ("student", "teacher"):
        assert done.calls("hint", f"{model}.block2") > 0
        assert [done.calls("hint", f"{model}.{path}") for path in ("block3", "pool", "fc")] == [0, 0, 0]
        assert done.calls("distilled", f"{model}.fc") > 0
    assert done.calls("hint", "regressor") > 0
    assert done.calls("distilled", "regressor") == 0
    hinted = safetensors.torch.load_file(done.folder / "checkpoints" / "hint" / "student.safetensors")
    assert not torch.equal(hinted["block1.conv.weight"], done.initial["student"]["block1.conv.weight"])
    assert torch.equal(hinted["fc.weight"], done.initial["student"]["fc.weight"])


def test_attention_transfer_needs_no_logits_of_the_teacher(finished: Any) -> None:
    done: Finished = finished("examples/digits/attention.yaml")
    assert done.calls("distilled", "teacher.block3") > 0
    assert done.calls("distilled", "teacher.fc") == 0
    assert done.calls("distilled", "student.fc") > 0


def test_mutual_learning_moves_both_students_and_each_by_its_own_terms(finished: Any) -> None:
    done: Finished = finished("examples/digits/mutual.yaml")
    student, peer = done.weights("student"), done.weights("peer")
    assert not torch.equal(student["fc.weight"], peer["fc.weight"])
    batch = {"input": torch.rand(8, 1, 8, 8), "target": torch.arange(8)}
    objective = kdcore.build_objective(done.config, models={}, example_batch=batch)
    for learner, other in (("student", "peer"), ("peer", "student")):
        terms = objective.term_values(batch)
        (terms[f"ce_{learner}"] + terms[f"kd_{learner}"]).backward()
        moved = {key.split(".")[0] for key, each in objective.named_trainable() if each.grad is not None}
        assert moved == {learner}, f"the terms of {learner} reach {other}"
        objective.zero_grad()


def test_teacher_free_distillation_has_the_student_alone_as_its_teacher(finished: Any) -> None:
    done: Finished = finished("examples/digits/tf_kd.yaml")
    assert done.twins().keys() == {"teacher"}
    assert done.calls("alone", "teacher.fc") == 0
    assert done.calls("distilled", "teacher.fc") > 0


def test_a_distilled_head_is_all_that_changes_before_the_teachers_end(finished: Any) -> None:
    done: Finished = finished("examples/digits/ghnd.yaml")
    student, teacher = done.weights("student"), done.weights("teacher")
    end = [key for key in teacher if key.startswith(("block3.", "fc."))]
    assert all(torch.equal(student[key], teacher[key]) for key in end)
    assert student["block1.conv.weight"].shape[0] == 2
    assert done.calls("distilled", "student.block3") > 0
    assert done.calls("distilled", "teacher.fc") == 0


def test_two_teachers_both_pull_the_student(finished: Any) -> None:
    done: Finished = finished("examples/digits/two_teachers.yaml")
    distilled = done.metrics()[-1]["metrics"]
    assert distilled["train/losses/kd_cnn"] != distilled["train/losses/kd_mlp"]
    assert all(done.calls("distilled", f"{teacher}.fc") > 0 for teacher in ("cnn", "mlp"))


def text_batch() -> dict[str, Tensor]:
    """Return two blocks, the second of them short."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(256, (2, 65), generator=generator)
    mask = torch.arange(64) < torch.tensor([[64], [20]])
    return {"input": text[:, :-1] * mask, "target": text[:, 1:].where(mask, -100), "mask": mask}


def test_the_language_model_sees_nothing_beyond_the_text(finished: Any) -> None:
    done: Finished = finished("examples/text/lm.yaml")
    batch = text_batch()
    objective = kdcore.build_objective(done.config, models={}, example_batch=batch, stage="distilled")
    objective.train()

    def seen(changed: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        objective.zero_grad()
        out = objective({**batch, **changed})
        out.total.backward()
        return out.terms, {key: each.grad.clone() for key, each in objective.named_trainable() if each.grad is not None}

    other = torch.full_like(batch["input"], 7)
    expected = seen({})
    torch.testing.assert_close(seen({"input": batch["input"].where(batch["mask"], other)}), expected)
    within, _ = seen({"input": batch["input"].where(~batch["mask"], other)})
    assert all(not torch.isclose(within[name], expected[0][name]) for name in ("ce", "kd", "hidden"))


def test_the_language_model_counts_the_bytes_of_a_batch_beforehand(finished: Any) -> None:
    done: Finished = finished("examples/text/lm.yaml")
    batch = text_batch()
    objective = kdcore.build_objective(done.config, models={}, example_batch=batch, stage="distilled")
    assert {name: int(count) for name, count in objective.count(batch).items()} == {"ce": 84, "kd": 84}
    head, embed = (done.weights("student")[key] for key in ("head.weight", "embed.weight"))
    assert torch.equal(head, embed)


def test_a_config_whose_loss_is_in_a_plugin_file_needs_that_file(tmp_path: Path) -> None:
    name = "examples/digits/plugin.yaml"
    with pytest.raises(kdcore.KdcoreError, match="unknown loss 'cosine'"):
        kdcore.load_config(FILES[name], plugins=Registry.discover())
    overrides = [word for each in tiny(name, tmp_path) for word in ("--set", each)]
    folder = Path(called(command(name), "--quiet", *overrides).strip())
    assert folder.parent == tmp_path / "digits-plugin"
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert 0 <= json.loads(lines[-1])["metrics"]["train/losses/cosine"] <= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_with_its_own_loop_runs(name: str) -> None:
    models = kdcore.load_config(FILES[name], external_models=()).models
    assert all(model.part is None for model in models.values()), "the caller brings the models"
    printed = called(command(name), "--steps", 2)
    rows = dict(re.findall(r"^(\S.*?) {2,}(\d+\.\d) %$", printed, re.MULTILINE))
    assert rows.keys() == {"teacher", "student alone", "student distilled"}
    assert all(0 <= float(percent) <= 100 for percent in rows.values())


def test_a_loop_of_its_own_gets_the_plain_student_back() -> None:
    own_loop = runpy.run_path(str(ROOT / "examples" / "digits" / "own_loop.py"))
    teacher, student = own_loop["Net"](4), own_loop["Net"](2)
    batch = {"input": torch.rand(8, 1, 8, 8), "target": torch.arange(8)}
    objective = kdcore.build_objective(
        FILES["examples/digits/own_loop.yaml"], models={"teacher": teacher, "student": student}, example_batch=batch
    )
    before = copied(teacher), copied(objective)
    own_loop["fit"](objective, lambda each: objective(each).total, [batch], 2)
    after = copied(teacher), copied(objective)
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])
    learned = [key for key, _ in objective.named_parameters()]
    assert {key.split(".")[1] for key in learned} == {"student", "widen"}
    assert all(not torch.equal(before[1][key], after[1][key]) for key in learned)
    exported = objective.export_student().eval()
    assert type(exported) is own_loop["Net"]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in exported.modules())
    assert torch.equal(exported(batch["input"]), student.eval()(batch["input"]))
