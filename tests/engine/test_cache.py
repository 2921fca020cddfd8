"""Runs with cached teachers: the same losses, fewer passes, and refusals of what a cache cannot know."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from kdcore.cli.main import main
from kdcore.config.config import Config
from kdcore.config.load import load_config
from kdcore.engine.cache.fill import fill_caches
from kdcore.engine.progress import Progress
from kdcore.engine.run import run
from kdcore.errors import ConfigError, DataError, KdcoreError, WiringError
from kdcore.plugins import Registry

TEXT = """\
version: 1
name: tiny
output_dir: {folder}
data:
  train: {{type: toy, params: {{count: 40}}, batch_size: 16}}
  val: {{type: toy, params: {{count: 24, first: 1000}}, batch_size: 24}}
  test: {{type: toy, params: {{count: 24, first: 2000}}, batch_size: 24}}
models:
  teacher: {{type: counted, params: {{width: 16}}, weights: as_built, cache: true}}
  student: {{type: counted, params: {{width: 4}}}}
stages:
  - name: distill
    epochs: 3
    train: [student]
    losses:
      ce: {{type: cross_entropy, weight: 0.1}}
      kd: {{type: kd, weight: 0.9}}
    optimizer: {{type: SGD, params: {{lr: 0.1}}}}
"""
OFF = "models.teacher.cache=false"


class Counted(nn.Module):
    """A small network that counts its passes, by width."""

    passes: ClassVar[dict[int, int]] = {}

    def __init__(self, width: int = 4, slope: float = 0.0) -> None:
        super().__init__()
        self.width = width
        self.body = nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.LeakyReLU(slope), nn.Dropout(0.5))
        self.fc = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        Counted.passes[self.width] = Counted.passes.get(self.width, 0) + 1
        return self.fc(self.body(x.flatten(1)[:, :6]))


class Masking(Counted):
    """Leaves a class out, as some models do, by a number that is merely large."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super().forward(x) * 2, super().forward(x) - 1e9 * torch.eye(3)[0]], 1)


class Lengthy(nn.Module):
    """Yields a row per position."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.unsqueeze(-1))


class Toy(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Samples that their index decides, unless `noise` adds to them."""

    num_classes = 3

    def __init__(self, count: int = 40, first: int = 0, noise: float = 0.0, flip: bool = False, rows: int = 1) -> None:
        self.count, self.first, self.noise, self.flip, self.rows_per_sample = count, first, noise, flip, rows
        self.targets = torch.arange(count) % 3

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.first + index)
        x = torch.randn(6, generator=generator) + self.noise * torch.randn(6)
        if self.flip and torch.rand(()) < 0.5:
            x = x.flip(0)
        return {"input": x, "target": self.targets[index]}


class Turned(Toy):
    """Four rows per sample."""

    def __init__(self) -> None:
        super().__init__(rows=4)

    def collate(self, samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        x = torch.stack([sample["input"].roll(k) for sample in samples for k in range(4)])
        return {"input": x, "target": torch.stack([sample["target"] for sample in samples]).repeat_interleave(4)}


class Mixed(Toy):
    """A collate that mixes neighbours."""

    random = False

    def collate(self, samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        x = torch.stack([sample["input"] for sample in samples])
        return {"input": (x + x.roll(1, 0)) / 2, "target": torch.stack([sample["target"] for sample in samples])}


class Ragged(Toy):
    """Batches padded to their longest sample."""

    def collate(self, samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        lengths = [2 + int(sample["target"]) for sample in samples]
        rows = [torch.cat([sample["input"][:n], torch.zeros(max(lengths) - n)]) for sample, n in zip(samples, lengths, strict=True)]  # fmt: skip
        target = [torch.full((max(lengths),), int(sample["target"])) for sample in samples]
        return {"input": torch.stack(rows), "target": torch.stack(target)}


class Bucketed(Toy):
    """Samples of two lengths, each batch of one; it claims never to be random."""

    random = False

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        length = 6 if index < 16 else 5
        return {"input": super().__getitem__(index)["input"][:length], "target": torch.full((length,), index % 3)}


class Restless(Toy):
    """Says that it is random, although what a model is fed is not."""

    random = True

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {**super().__getitem__(index), "noise": torch.rand(())}


def registry() -> Registry:
    made = Registry.discover()
    made.register("model", "counted", Counted)
    made.register("model", "lengthy", Lengthy)
    made.register("model", "masking", Masking)
    for kind in (Toy, Turned, Mixed, Ragged, Bucketed, Restless):
        made.register("dataset", kind.__name__.lower(), kind)
    return made


def execute(tmp_path: Path, *overrides: str, text: str = TEXT) -> Path:
    Counted.passes.clear()
    plugins = registry()
    config = load_config(text.format(folder=tmp_path), overrides=overrides, plugins=plugins)
    return run(config, quiet=True, registry=plugins)


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line)["metrics"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def caches(tmp_path: Path) -> list[str]:
    return sorted(each.name.rpartition("-")[0] for each in (tmp_path / "cache").iterdir())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_measures_the_same_with_a_cache_and_calls_the_teacher_once_per_batch(
    precision: str, tmp_path: Path
) -> None:
    stage = f"stages.0.precision={precision}"
    plain = execute(tmp_path, stage, OFF)
    cached = execute(tmp_path, stage)
    filling = Counted.passes[16]
    again = execute(tmp_path, stage)
    assert metrics(plain) == metrics(cached) == metrics(again)
    student = (each / "student.safetensors" for each in (plain, cached, again))
    assert len({file.read_bytes() for file in student}) == 1
    # Three batches of training data, one of validation and one of test data; the rest is wiring.
    assert filling - Counted.passes[16] == 3 + 1 + 1
    assert caches(tmp_path) == ["teacher-test", "teacher-train", "teacher-val"]


def test_a_cached_teacher_never_runs_while_training(tmp_path: Path) -> None:
    counts = []
    for epochs in (1, 1, 6):
        execute(tmp_path, f"stages.0.epochs={epochs}")
        counts.append(Counted.passes[16])
    assert counts[0] > counts[1] == counts[2]


def test_shuffled_batches_find_their_samples(tmp_path: Path) -> None:
    plain = execute(tmp_path, "data.train.shuffle=true", OFF)
    cached = execute(tmp_path, "data.train.shuffle=true")
    for one, two in zip(metrics(plain), metrics(cached), strict=True):
        assert one == pytest.approx(two, rel=1e-5)


class Stops(Progress):
    """Sends the signal of an interrupt in one step."""

    def __init__(self, step: int) -> None:
        self.left = step

    def step_ended(self, terms: Any) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("step", "dtype"), [(2, "bfloat16"), (5, "bfloat16"), (2, "int8")])
def test_an_interrupted_and_resumed_run_sees_the_same_values(step: int, dtype: str, tmp_path: Path) -> None:
    """In step 2 the cache is half full, and what the first steps stored came from other batches than the rest will."""
    overrides = ("data.train.shuffle=true", f"models.teacher.cache={{dtype: {dtype}}}")
    whole = execute(tmp_path / "whole", *overrides)
    plugins = registry()
    config = load_config(TEXT.format(folder=tmp_path / "cut"), overrides=overrides, plugins=plugins)
    with pytest.raises(KeyboardInterrupt):
        run(config, progress=Stops(step), registry=plugins)
    (folder,) = (tmp_path / "cut" / "tiny").iterdir()
    run(config, quiet=True, registry=plugins, resume=folder)
    assert metrics(folder) == metrics(whole)
    student = "student.safetensors"
    assert (folder / student).read_bytes() == (whole / student).read_bytes()


@pytest.mark.gpu
def test_on_a_gpu_it_measures_the_same_too(tmp_path: Path) -> None:
    options = ("device=cuda", "data.train.pin_memory=true", "models.teacher.cache={top_k: 2}")
    exact = execute(tmp_path, *options[:2], OFF)
    cached, again = execute(tmp_path, *options), execute(tmp_path, *options)
    for one, two, three in zip(metrics(exact), metrics(cached), metrics(again), strict=True):
        assert one == pytest.approx(two, rel=1e-3)
        assert two == pytest.approx(three, rel=1e-5)
    execute(tmp_path, "device=cpu", *options[1:])
    assert len(caches(tmp_path)) == 3, "a cache that a GPU filled is read on the CPU"


@pytest.mark.parametrize("workers", [0, 1])
def test_several_rows_per_sample_and_captured_features(workers: int, tmp_path: Path) -> None:
    feature = "stages.0.losses.hint={type: mse, inputs: {input: proj, target: 'teacher:body.0'}}"
    text = TEXT + "adapters:\n  proj: {{type: linear, inputs: {{x: student:body.0}}, like: teacher:body.0}}\n"
    common = (feature, "stages.0.train=[student, proj]", "data.train={type: turned, batch_size: 16}", f"data.train.num_workers={workers}")  # fmt: skip
    plain, cached = (execute(tmp_path, *common, *more, text=text) for more in ((OFF,), ()))
    again = execute(tmp_path, *common, text=text)
    assert metrics(plain) == metrics(cached) == metrics(again)


def test_stages_share_what_they_both_read(tmp_path: Path) -> None:
    text = TEXT + TEXT[TEXT.index("  - name: distill") :].replace("name: distill", "name: more").replace(
        "kd: {{type: kd, weight: 0.9}}", "h: {{type: mse, inputs: {{input: student, target: teacher:fc}}}}"
    )
    plain, cached = (execute(tmp_path, *more, text=text) for more in ((OFF,), ()))
    assert metrics(plain) == metrics(cached)
    train = next(each for each in (tmp_path / "cache").iterdir() if each.name.startswith("teacher-train"))
    assert len(list(train.glob("*.data"))) == 2
    assert len(caches(tmp_path)) == 3


def test_a_smaller_dtype_and_top_k_train_and_take_less_room(tmp_path: Path) -> None:
    plain = execute(tmp_path, OFF)
    exact = metrics(plain)[-1]
    for setting, tolerance in (("{dtype: bfloat16}", 0.02), ("{dtype: int8}", 0.02), ("{top_k: 1, dtype: float16}", 0.5)):  # fmt: skip
        filled, again = (metrics(execute(tmp_path, f"models.teacher.cache={setting}")) for _ in range(2))
        assert filled == again
        found = filled[-1]
        assert found["train/losses/kd"] == pytest.approx(exact["train/losses/kd"], rel=tolerance)
        assert found["train/losses/kd"] != exact["train/losses/kd"]
    assert len(caches(tmp_path)) == 3 * 3


def test_folders_can_be_chosen_and_shared_by_runs(tmp_path: Path) -> None:
    first = execute(tmp_path / "one", f"models.teacher.cache={{folder: {tmp_path}/shared}}")
    filled = Counted.passes[16]
    second = execute(tmp_path / "two", f"models.teacher.cache={{folder: {tmp_path}/shared}}", "seed=0")
    assert metrics(first) == metrics(second)
    assert Counted.passes[16] < filled
    assert not (tmp_path / "two" / "cache").exists()


CHANGES = {
    "weights": "models.teacher.seed=5",
    "model": "models.teacher.params.slope=0.5",
    "data": "data.train.params.first=7",
    "dtype": "models.teacher.cache={dtype: float16}",
    "top_k": "models.teacher.cache={top_k: 2}",
    "precision": "stages.0.precision=bfloat16",
}


def checked(tmp_path: Path, *overrides: str, text: str = TEXT) -> Config:
    return load_config(text.format(folder=tmp_path), overrides=overrides, plugins=registry())


def fill(tmp_path: Path, *overrides: str, text: str = TEXT) -> str:
    """Fill the caches and return what was printed."""
    Counted.passes.clear()
    console = Console(file=io.StringIO(), force_terminal=False, width=400)
    fill_caches(checked(tmp_path, *overrides, text=text), console=console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("part", CHANGES)
def test_a_change_of_each_part_makes_another_cache_and_says_which(part: str, tmp_path: Path) -> None:
    fill(tmp_path)
    told = fill(tmp_path, CHANGES[part])
    (line,) = (line for line in told.splitlines() if "teacher on train is made again" in line)
    assert f"teacher on train is made again: its {part} changed; the old one stays in {tmp_path}/cache/teacher-train-" in line  # fmt: skip
    assert caches(tmp_path).count("teacher-train") == 2
    assert caches(tmp_path).count("teacher-val") == (1 if part == "data" else 2)
    assert "made again" not in fill(tmp_path, CHANGES[part])


def test_changed_content_of_the_data_changes_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    get = Toy.__getitem__
    monkeypatch.setattr(Toy, "__getitem__", lambda self, index: {**get(self, index), "input": get(self, index)["input"] * 2})  # fmt: skip
    assert "teacher on train is made again: its data changed" in fill(tmp_path)


def test_what_decides_on_no_value_changes_nothing(tmp_path: Path) -> None:
    fill(tmp_path)
    same = ("data.train.batch_size=7", "data.train.shuffle=true", "stages.0.epochs=9", "models.student.params.width=5", "seed=0", "models.teacher.cache={}")  # fmt: skip
    told = fill(tmp_path, *same)
    assert "stored" not in told
    assert "made again" not in told
    assert len(caches(tmp_path)) == 3


def test_another_plugin_file_under_the_same_name_is_another_model(tmp_path: Path) -> None:
    code = "import kdcore\nfrom torch import nn\nkdcore.register('model', 'mine', lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), schema={'type': 'object'})\n"  # fmt: skip
    for addition in ("", "# other mathematics"):
        (tmp_path / "mine.py").write_text(code + addition)
        plugins = registry()
        plugins.load_file(tmp_path / "mine.py")
        model = "models.teacher={type: mine, weights: as_built, cache: true}"
        config = load_config(TEXT.format(folder=tmp_path), overrides=[model], plugins=plugins)
        console = Console(file=io.StringIO(), width=400)
        fill_caches(config, console=console)
    assert "its model changed" in console.file.getvalue()  # type: ignore[attr-defined]


def test_kd_cache_fills_what_a_run_reads(tmp_path: Path) -> None:
    told = fill(tmp_path)
    assert f"the cache of teacher on train has 0 of 40 samples: {tmp_path}/cache/teacher-train-" in told
    assert "stored 40 samples of teacher on train (800 bytes in all)" in told
    assert "stored 24 samples of teacher on val" in told
    assert "stored 24 samples of teacher on test" in told
    assert Counted.passes[16] > 0
    again = fill(tmp_path)
    assert "stored" not in again
    assert "the cache of teacher on train has 40 of 40 samples, 800 bytes" in again
    filled = execute(tmp_path)
    passes = Counted.passes[16]
    assert metrics(execute(tmp_path)) == metrics(filled)
    assert Counted.passes[16] == passes
    plain = execute(tmp_path, OFF)
    for one, two in zip(metrics(plain), metrics(filled), strict=True):
        assert one == pytest.approx(two, rel=1e-5)


def test_kd_cache_covers_samples_that_an_epoch_leaves_out(tmp_path: Path) -> None:
    told = fill(tmp_path, "data.train.drop_last=true", "data.train.sampler=replacement")
    assert "stored 40 samples of teacher on train" in told


TAUGHT = TEXT.replace(", weights: as_built", "").replace(
    "stages:\n",
    """stages:
  - name: teach
    epochs: 1
    train: [teacher]
    losses:
      ce: {{type: cross_entropy, inputs: {{input: teacher}}}}
    optimizer: {{type: SGD, params: {{lr: 0.1}}}}
""",
)


def test_a_teacher_of_an_earlier_stage_is_cached_with_the_weights_it_ended_with(tmp_path: Path) -> None:
    told = fill(tmp_path, text=TAUGHT)
    assert "stage distill: teacher is not filled: stage teach trains it; the run fills it in its first epoch" in told
    assert not (tmp_path / "cache").exists()
    plain, cached = (execute(tmp_path, *more, text=TAUGHT) for more in ((OFF,), ()))
    assert metrics(plain) == metrics(cached)
    execute(tmp_path, "stages.teach.optimizer.params.lr=0.2", text=TAUGHT)
    assert caches(tmp_path).count("teacher-train") == 2


def test_without_any_cache_the_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no model of this config has a cache" in fill(tmp_path, OFF)
    digits = """\
version: 1
data: {train: {type: digits, params: {split: train, samples_per_class: 2}}}
models: {teacher: {type: digits_mlp, weights: as_built, cache: true}, student: digits_mlp}
stages: [{name: a, epochs: 1, train: [student], losses: {kd: kd}, optimizer: SGD}]
"""
    (tmp_path / "kd.yaml").write_text(digits)
    assert main(["cache", str(tmp_path / "kd.yaml"), "--set", f"output_dir={tmp_path}/runs"]) == 0
    assert "stored 20 samples of teacher on train" in capsys.readouterr().out


REFUSED: dict[str, tuple[list[str], type[KdcoreError], str]] = {
    "random": (
        ["data.train.params.flip=true"],
        DataError,
        r"models.teacher.cache: 'teacher' cannot be cached on data 'train': batch:input of sample \d+ is not the same each "
        r"time it is drawn \(random augmentation(.|\n)*without augmentation, or write cache: false",
    ),
    "random on val": (["data.val.params.noise=0.1"], DataError, "cannot be cached on data 'val'"),
    "mixing collate": (["data.train={type: mixed}"], DataError, "a collate that mixes samples"),
    "padding": (
        ["data.train={type: ragged, batch_size: 8}", "models.teacher.type=lengthy", "models.student.type=lengthy",
         "models.teacher.params={}", "models.student.params={}", "stages.0.data={val: null, test: null}",
         "stages.0.losses.ce.enabled=false", "stages.0.metrics={models: []}"],
        DataError,
        r"batch:input of sample \d+ has shape \(1, \d\) alone and \(1, 4\) in a batch",
    ),
    "finite mask": (
        ["models.teacher.type=masking", "models.student.type=masking", "models.teacher.cache={dtype: int8}"], WiringError,
        r"models.teacher.cache: int8 leaves next to nothing of float32\[16, 6\]: the values of a group reach from -\S+ to "
        r"\S+, and all of them lie within a step of 3.9e\+06 of these two \(at teacher\)(.|\n)*let the model mask with -inf",
    ),
    "top_k": (["models.teacher.cache={top_k: 3}"], WiringError, r"models.teacher.cache: top_k: 3 leaves nothing out of float32\[16, 3\]"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_cache_cannot_know_is_refused_before_training(case: str, tmp_path: Path) -> None:
    overrides, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        execute(tmp_path, *overrides)
    assert not list(tmp_path.glob("tiny/*/metrics.jsonl"))


def test_random_entries_that_no_cached_model_reads_do_no_harm(tmp_path: Path) -> None:
    plain, cached = (execute(tmp_path, "data.train={type: restless, batch_size: 16}", *more) for more in ((OFF,), ()))
    assert metrics(plain) == metrics(cached)


def test_samples_of_varying_shape_are_an_error_that_names_the_address(tmp_path: Path) -> None:
    lengthy = ("models.teacher={type: lengthy, weights: as_built, cache: true}", "models.student={type: lengthy}")
    bucketed = ("data.train={type: bucketed, batch_size: 1}", "stages.0.data={val: null, test: null}", "stages.0.losses.ce.enabled=false", "stages.0.metrics={models: []}")  # fmt: skip
    with pytest.raises(DataError, match=r"teacher cannot be cached: it yields float32\[5, 3\] per row here and float32\[6, 3\] elsewhere(.|\n)*pad"):  # fmt: skip
        execute(tmp_path, *lengthy, *bucketed)


def test_a_value_without_a_row_per_sample_is_refused(tmp_path: Path) -> None:
    class Summed(Counted):
        def forward(self, x: Tensor) -> dict[str, Any]:  # type: ignore[override]
            logits = super().forward(x)
            return {"logits": logits, "mean": logits.mean(0), "parts": (logits, 1)}

    plugins = registry()
    plugins.register("model", "summed", Summed)
    for address, repair in (("teacher@raw#mean", "has the batch first"), ("teacher@raw#parts", "by #key")):
        overrides = ["models.teacher.type=summed", f"stages.0.losses.m={{type: odd, inputs: {{input: student, target: '{address}'}}}}"]  # fmt: skip
        plugins.register("loss", "odd", Odd)
        config = load_config(TEXT.format(folder=tmp_path), overrides=overrides, plugins=plugins)
        with pytest.raises(WiringError, match=rf"models.teacher.cache: {address} cannot be cached(.|\n)*{repair}"):
            run(config, quiet=True, registry=plugins)


class Odd(nn.Module):
    """A loss that takes whatever it gets."""

    def forward(self, input: Tensor, target: Any) -> Tensor:
        return input.square().mean()


CONFIG_ERRORS = {
    "models.student={type: counted, cache: true}": r"models.student.cache: 'student' has a cache, but the stage trains it",
    "models.teacher.inputs=[student]": r"models.teacher.cache: 'teacher' cannot be cached: it is fed by student",
    "models.teacher.cache={dtype: fp16}": r"models.teacher.cache.dtype: .*did you mean|float16",
    "models.teacher.cache={top_k: 0}": r"models.teacher.cache.top_k",
    "models.teacher.cache={floder: x}": r"models.teacher.cache.floder: unknown key(.|\n)*did you mean 'folder'",
    "models.teacher.cache=2": r"models.teacher.cache",
}


@pytest.mark.parametrize("override", CONFIG_ERRORS)
def test_mistakes_in_the_config_say_where(override: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=CONFIG_ERRORS[override]):
        checked(tmp_path, override)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KdcoreError, match=r"models.teacher.cache: the cache folder '.*file/teacher-train-.*' cannot be made"):  # fmt: skip
        execute(tmp_path, f"models.teacher.cache={{folder: {tmp_path}/file}}")
