"""The data set whose samples name those that they are contrasted with."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kd_plugin_crd.contrasted
import pytest
import torch
from kd_plugin_crd.contrasted import Contrasted
from torch.utils.data import Dataset

import kdcore
from kdcore.errors import DataError

FEW = {"type": "digits", "params": {"samples_per_class": 3}}  # 30 samples
COUNT, CLASSES, EACH = 30, 10, 3


class Plain(Dataset[dict[str, Any]]):
    """A data set of images only, with a collate of its own that knows no other entries."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"picture": torch.full((2,), float(index))}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        assert [set(sample) for sample in samples] == [{"picture"}] * len(samples)
        return {"pictures": torch.stack([sample["picture"] for sample in samples])}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plain]:
    """Offer `Plain` under every name."""
    made = Plain()
    monkeypatch.setattr(kd_plugin_crd.contrasted, "create", lambda kind, name, **params: made)
    return made


def drawn(data: Contrasted, rounds: int = 1) -> dict[int, list[list[int]]]:
    """Return the candidates of every sample, several times."""
    torch.manual_seed(0)
    return {index: [data[index]["contrast_index"].tolist() for _ in range(rounds)] for index in range(len(data))}


@pytest.mark.parametrize("count", [1, 5, COUNT - EACH])
def test_exact_negatives_are_of_other_classes_and_differ(count: int) -> None:
    data = Contrasted(FEW, num_negatives=count)
    for index, ((first, *others),) in drawn(data).items():
        assert first == index
        assert len(set(others)) == len(others) == count
        assert all(data.targets[other] != data.targets[index] for other in others)


def test_relaxed_negatives_are_any_but_the_sample() -> None:
    for index, ((first, *others),) in drawn(Contrasted(FEW, COUNT - 1, sampling="relax")).items():
        assert sorted([first, *others]) == list(range(COUNT))
        assert first == index


@pytest.mark.parametrize("sampling", ["exact", "relax"])
def test_a_positive_of_the_class_is_every_member_as_often(sampling: str) -> None:
    data, rounds = Contrasted(FEW, 2, sampling=sampling, positive="class"), 400
    for index, found in list(drawn(data, rounds).items())[:5]:
        members = (data.targets == data.targets[index]).nonzero().flatten().tolist()
        counts = {each: sum(first == each for first, *_ in found) for each in members}
        assert sum(counts.values()) == rounds
        assert all(abs(n - rounds / EACH) < 5 * math.sqrt(rounds / EACH) for n in counts.values()), counts


def test_the_rest_of_a_sample_and_what_the_data_set_says_are_the_others() -> None:
    data = Contrasted(FEW, 4)
    assert (len(data), data.num_classes, data.random, data.rows_per_sample) == (COUNT, CLASSES, True, 1)
    sample, own = data[7], data.dataset[7]
    assert set(sample) == {*own, "contrast_index"}
    assert torch.equal(sample["input"], own["input"])
    batch = data.collate([data[1], data[2]])
    assert batch["contrast_index"].shape == (2, 5)
    assert batch["contrast_index"].dtype is torch.int64
    assert batch["target"].tolist() == data.targets[1:3].tolist()


def test_the_collate_of_the_other_data_set_sees_its_own_samples(plain: Plain) -> None:
    data = Contrasted("plain", 3, sampling="relax")
    batch = data.collate([data[0], data[5]])
    assert set(batch) == {"pictures", "contrast_index"}
    assert batch["contrast_index"][:, 0].tolist() == [0, 5]


def test_many_samples_need_scratch_space_which_no_copy_takes_along() -> None:
    data = Contrasted({"type": "digits"}, 3)
    torch.manual_seed(0)
    one = data[0]["contrast_index"]
    assert data._scratch is not None
    twin = pickle.loads(pickle.dumps(data))
    assert twin._scratch is None
    torch.manual_seed(0)
    assert torch.equal(twin[0]["contrast_index"], one)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"num_negatives": 28},
            r"(?s)num_negatives is 28, but of the 30 samples of digits only 27.*from 1 to 27, or samp",
        ),
        ({"num_negatives": 30, "sampling": "relax"}, r"(?s)only 29 are left without the sample itself.*from 1 to 29$"),
        ({"sampling": "all"}, "sampling is 'all'; it must be one of exact, relax"),
        ({"positive": "other"}, "positive is 'other'; it must be one of sample, class"),
        (
            {"dataset": {"type": "rotated", "params": {"dataset": "digits"}}},
            r"(?s)several rows per sample.*put contrasted",
        ),
    ],
)
def test_what_cannot_be_drawn(params: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Contrasted(**{"dataset": FEW, "num_negatives": 2, **params})


@pytest.mark.parametrize("params", [{}, {"sampling": "relax", "positive": "class"}])
def test_classes_that_are_not_known(plain: Plain, params: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"(?s)plain has no `targets`.*sampling: relax and positive: sample"):
        Contrasted("plain", 2, **params)
    plain.targets = torch.rand(6)
    with pytest.raises(DataError, match=r"plain: its targets have shape \(6,\) and type torch.float32; sampling exact"):
        Contrasted("plain", 2, **params)


CONFIG = """
version: 1
name: tiny
output_dir: {folder}
data:
  train:
    type: contrasted
    params: {{dataset: {{type: digits, params: {{samples_per_class: 3}}}}, num_negatives: 5}}
    batch_size: 10
    shuffle: true
    num_workers: {workers}
models:
  teacher: {{type: digits_cnn, params: {{width: 2}}, weights: as_built, cache: {cache}}}
  student: {{type: digits_cnn, params: {{width: 2}}}}
adapters:
  student_head: {{type: crd_head, inputs: {{x: student:pool}}, params: {{out_features: 4}}}}
  teacher_head: {{type: crd_head, inputs: {{x: teacher:pool}}, params: {{out_features: 4}}}}
stages:
  - name: distilled
    epochs: 2
    train: [student, student_head, teacher_head]
    optimizer: {{type: SGD, params: {{lr: 0.1}}}}
    losses:
      crd:
        type: crd
        inputs: {{student: student_head, teacher: teacher_head, contrast_index: batch:contrast_index}}
"""


def finished(tmp_path: Path, **options: Any) -> dict[str, torch.Tensor]:
    import safetensors.torch

    config = CONFIG.format(folder=tmp_path, **{"workers": 0, "cache": "false", **options})
    return safetensors.torch.load_file(kdcore.run(kdcore.load_config(config), quiet=True) / "student.safetensors")


def test_a_run_is_the_same_with_a_cached_teacher(tmp_path: Path) -> None:
    plain, cached = finished(tmp_path), finished(tmp_path, cache="true")
    assert all(torch.allclose(plain[key], cached[key], rtol=1e-5, atol=1e-7) for key in plain)


@pytest.mark.slow
def test_a_run_is_the_same_with_workers(tmp_path: Path) -> None:
    plain, workers = finished(tmp_path), finished(tmp_path, workers=2)
    assert all(torch.equal(plain[key], workers[key]) for key in plain)
