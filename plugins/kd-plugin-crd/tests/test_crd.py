"""`crd` and `crd_head` against the paper's equations and the values of an earlier system."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from kd_plugin_crd import blocks, contrast
from kd_plugin_crd.head import CRDHead
from kd_plugin_crd.loss import CRDLoss
from kd_plugin_crd.negatives import Negatives, draw_row, draw_together
from kd_plugin_crd.noise import fill_with_noise
from torch import Tensor

import kdcore
from kdcore.contracts import Facts, TensorFacts
from kdcore.errors import WiringError

from .textbook import TextbookCRD

GOLDEN = torch.load(Path(__file__).with_name("golden.pt"), weights_only=True)
N, D, B, K = 40, 6, 5, 7


def embeddings(seed: int = 0, batch: int = B, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pair = (F.normalize(torch.randn(batch, D, generator=generator, dtype=dtype)) for _ in range(2))
    student, teacher = (each.requires_grad_() for each in pair)
    return student, teacher


def candidates(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.stack([torch.randperm(N, generator=generator)[: K + 1] for _ in range(B)])
    return drawn[:, 0].contiguous(), drawn


def made(**params: object) -> CRDLoss:
    torch.manual_seed(0)
    return CRDLoss(**{"num_negatives": K, "num_samples": N, "dim": D, **params}).double()


def facts(targets: Tensor | None = None, **more: object) -> Facts:
    shape = TensorFacts((B, D), torch.float32)
    return Facts(inputs={"student": shape, "teacher": shape}, num_samples=N, targets=targets, **more)


@pytest.fixture(params=["whole", "rows", "counts", "copies", "copies in parts"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test in every form of the similarities; the last three are used where a CPU finds Z known."""
    monkeypatch.setattr(contrast, "WHOLE_BANK", 0 if request.param == "rows" else 100)
    monkeypatch.setattr(contrast, "CPU_BLOCK", 2 * (K + 1) * D)
    if request.param in ("whole", "rows"):
        monkeypatch.setattr(CRDLoss, "_known", lambda loss: False)
    monkeypatch.setattr(blocks, "COUNTED", 100 if request.param == "counts" else 0)
    monkeypatch.setattr(blocks, "SCORES", 13 * B)
    monkeypatch.setattr(blocks, "ROWS", 3 * D if "parts" in request.param else 2 * K * D)
    return request.param


@pytest.mark.parametrize("params", [{}, {"temperature": 0.5, "momentum": 0.0, "eps": 0.0}])
def test_steps_follow_the_textbook(form: str, params: dict[str, float]) -> None:
    loss = made(**params)
    textbook = TextbookCRD(loss.student_bank, loss.teacher_bank, **params)
    for step in range(3):
        student, teacher = embeddings(step)
        index, drawn = candidates(step)
        value = loss(student, teacher, index, contrast_index=drawn)
        expected = textbook(student, teacher, index, drawn)
        torch.testing.assert_close(value, expected)
        gradients, references = (torch.autograd.grad(each, [student, teacher]) for each in (value, expected))
        torch.testing.assert_close(gradients, references)
        torch.testing.assert_close(loss.student_bank, textbook.student_bank)
        torch.testing.assert_close(loss.teacher_bank, textbook.teacher_bank)
    torch.testing.assert_close(loss.normalizer, torch.stack(textbook.normalizer))


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
def test_a_negative_may_be_named_often(form: str, temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    loss = made(temperature=temperature)
    textbook = TextbookCRD(loss.student_bank, loss.teacher_bank, temperature)
    for step in range(2):
        student, teacher = embeddings(step)
        drawn = torch.randint(4, (B, 300), generator=generator)
        index = torch.arange(B)
        drawn[:, 0] = index
        value = loss(student, teacher, index, contrast_index=drawn)
        expected = textbook(student, teacher, index, drawn)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        gradients, references = (torch.autograd.grad(each, [student, teacher]) for each in (value, expected))
        torch.testing.assert_close(gradients, references, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("num_rows", "counted"), [(23, True), (24, True), (25, False), (40, False)])
def test_rows_are_counted_up_to_twelve_times_the_negatives(num_rows: int, counted: bool) -> None:
    loss = made(num_samples=num_rows)
    textbook = TextbookCRD(loss.student_bank, loss.teacher_bank)
    generator = torch.Generator().manual_seed(0)
    for step in range(2):
        drawn = torch.stack([torch.randperm(num_rows, generator=generator)[:3] for _ in range(B)])
        assert (blocks.Candidates(drawn, num_rows).counts is not None) == counted
        student, teacher = embeddings(step)
        index = drawn[:, 0].contiguous()
        value = loss(student, teacher, index, contrast_index=drawn)
        expected = textbook(student, teacher, index, drawn)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        gradients, references = (torch.autograd.grad(each, [student, teacher]) for each in (value, expected))
        torch.testing.assert_close(gradients, references, rtol=1e-11, atol=1e-11)


def test_candidates_may_be_of_any_whole_type(form: str) -> None:
    loss = made()
    index, drawn = candidates()
    loss(*embeddings(), index, contrast_index=drawn)
    same = copy.deepcopy(loss)
    value = loss(*embeddings(), index.int(), contrast_index=drawn.to(torch.uint8))
    assert torch.equal(value, same(*embeddings(), index, contrast_index=drawn))


def test_under_autocast_it_is_the_same(form: str) -> None:
    loss = made().float()
    index, drawn = candidates()
    student, teacher = (each.detach().float() for each in embeddings())
    loss(student, teacher, index, contrast_index=drawn)
    same = copy.deepcopy(loss)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher, index, contrast_index=drawn)
    assert torch.equal(value, same(student, teacher, index, contrast_index=drawn))


def test_compiled_it_is_one_graph_and_keeps_the_normalizer() -> None:
    torch.compiler.reset()
    loss, plain = made(), made()
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    kept = []
    for step in range(3):
        index, drawn = candidates(step)
        value, expected = (each(*embeddings(step), index, contrast_index=drawn) for each in (compiled, plain))
        torch.testing.assert_close(value, expected)
        kept.append(loss.normalizer.clone())
    assert torch.equal(kept[0], kept[2])
    torch.testing.assert_close(loss.state_dict(), plain.state_dict())


def test_golden(form: str) -> None:
    loss = CRDLoss(num_negatives=6, num_samples=50, dim=8).double()
    loss.student_bank.copy_(GOLDEN["banks"][0])
    loss.teacher_bank.copy_(GOLDEN["banks"][1])
    student, teacher = (GOLDEN[name].clone().requires_grad_() for name in ("student", "teacher"))
    value = loss(student, teacher, GOLDEN["index"], contrast_index=GOLDEN["contrast_index"])
    torch.testing.assert_close(value, GOLDEN["value"].squeeze())
    value.backward()
    torch.testing.assert_close(student.grad, GOLDEN["student_grad"])
    torch.testing.assert_close(teacher.grad, GOLDEN["teacher_grad"])
    torch.testing.assert_close((loss.student_bank, loss.teacher_bank), GOLDEN["moved"])
    torch.testing.assert_close(loss.normalizer, GOLDEN["normalizer"])


def test_golden_head() -> None:
    golden = GOLDEN["head"]
    head = CRDHead(6, 4).double()
    head.load_state_dict(golden["state_dict"])
    x = golden["inputs"][0].clone().requires_grad_()
    y = head(x)
    torch.testing.assert_close(y, golden["outputs"][0])
    y.backward(golden["cotangents"][0])
    torch.testing.assert_close(x.grad, golden["input_grads"][0])
    for name, parameter in head.named_parameters():
        torch.testing.assert_close(parameter.grad, golden["param_grads"][name])


def test_banks_change_in_training_with_gradient_only() -> None:
    loss = made()
    index, drawn = candidates()
    before = copy.deepcopy(loss.state_dict())
    with torch.no_grad():
        without = loss(*embeddings(), index, contrast_index=drawn)
    loss.eval()
    value = loss(*embeddings(), index, contrast_index=drawn)
    torch.testing.assert_close(value, without)
    torch.testing.assert_close(loss.state_dict(), before, rtol=0, atol=0)
    loss.train()(*embeddings(), index, contrast_index=drawn)
    changed = (loss.student_bank != before["student_bank"]).any(1).nonzero().squeeze(1)
    assert changed.tolist() == sorted(index.tolist())
    assert (loss.normalizer > 0).all()


def test_a_saved_loss_goes_on_to_the_same_bits() -> None:
    loss, other = made(), made(sampling="relax")
    index, drawn = candidates()
    loss(*embeddings(), index, contrast_index=drawn)
    assert list(loss.state_dict()) == ["student_bank", "teacher_bank", "normalizer"]
    other.load_state_dict(loss.state_dict())
    again = [each(*embeddings(1), index, contrast_index=drawn) for each in (loss, other, copy.deepcopy(loss))]
    assert again[0] == again[1] == again[2]
    torch.testing.assert_close(loss.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_backward_after_the_banks_have_moved_is_that_of_the_step() -> None:
    loss, once = made(), made()
    index, drawn = candidates()
    student, teacher = embeddings()
    first = loss(student, teacher, index, contrast_index=drawn)
    loss(*embeddings(1), index, contrast_index=drawn)
    (late,) = torch.autograd.grad(first, student)
    (early,) = torch.autograd.grad(once(student, teacher, index, contrast_index=drawn), student)
    assert torch.equal(late, early)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    loss = made().float()
    same = copy.deepcopy(loss)
    index, drawn = candidates()
    student, teacher = (each.detach().to(dtype).requires_grad_() for each in embeddings())
    value = loss(student, teacher, index, contrast_index=drawn)
    value.backward()
    assert (value.dtype, student.grad.dtype) == (torch.float32, dtype)
    assert torch.equal(value, same(student.float(), teacher.float(), index, contrast_index=drawn))
    assert loss.student_bank.dtype == torch.float32


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_any_length_of_embedding_is_finite(form: str, scale: float) -> None:
    loss = made().float()
    index, drawn = candidates()
    student, _ = embeddings(dtype=torch.float32)
    student = (student.detach() * scale).requires_grad_()
    for _ in range(2):
        value = loss(student, student.detach(), index, contrast_index=drawn)
        (gradient,) = torch.autograd.grad(value, student)
        assert value.isfinite()
        assert gradient.isfinite().all()
    assert loss.student_bank.isfinite().all()


def test_a_batch_of_one() -> None:
    loss = made(sampling="relax")
    student, teacher = embeddings(batch=1)
    value = loss(student, teacher, torch.tensor([3]))
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


TARGETS = torch.arange(N) % 4


@pytest.mark.parametrize("count", [1, 7, 30])
@pytest.mark.parametrize("together", [False, True])
def test_negatives_are_of_other_classes_and_differ(count: int, together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = TARGETS[torch.randperm(N)]
    negatives = Negatives(N, targets)
    index = torch.arange(N)
    if together:
        monkeypatch.setattr(Negatives, "_draw_row_by_row", lambda self, start, left, *_: numbered(self, start, left))

    def numbered(self: Negatives, start: Tensor, left: Tensor) -> Tensor:
        numbers = draw_together(N - left, count, self.fewest, self.most)
        return self.order[numbers + left.unsqueeze(1) * (numbers >= start.unsqueeze(1))]

    drawn = negatives.draw(index, count)
    assert drawn.shape == (N, count)
    assert (targets[drawn] != targets[index].unsqueeze(1)).all()
    assert all(len(set(row)) == count for row in drawn.tolist())
    if count == 30:  # all there are
        assert (drawn.sort(1)[0] == torch.stack([(targets != each).nonzero().squeeze(1) for each in targets])).all()


def test_relaxed_negatives_are_any_but_the_sample() -> None:
    drawn = Negatives(N).draw(torch.arange(N), N - 1)
    for sample, row in enumerate(drawn.tolist()):
        assert sorted([*row, sample]) == list(range(N))


def test_a_label_of_the_batch_comes_before_that_of_the_data_set() -> None:
    drawn = Negatives(N, TARGETS).draw(torch.tensor([0]), 30, torch.tensor([3]))
    assert set(TARGETS[drawn[0]].tolist()) == {0, 1, 2}


@pytest.mark.parametrize("size", [100, 12])
@pytest.mark.parametrize("together", [False, True])
def test_every_number_is_drawn_as_often(size: int, together: bool) -> None:
    torch.manual_seed(0)
    rows, count = 4000, 6
    scratch = torch.empty(size, dtype=torch.int32)
    if together:
        drawn = draw_together(torch.full((rows,), size), count, size, size)
    else:
        drawn = torch.stack([draw_row(size, count, scratch) for _ in range(rows)])
    counts = torch.bincount(drawn.flatten(), minlength=size)
    expected = rows * count / size
    # Five standard deviations of a draw without replacement.
    assert (counts - expected).abs().max() < 5 * math.sqrt(expected * (1 - count / size))
    assert all(len(set(row)) == count for row in drawn.tolist())


def test_no_list_is_as_large_as_classes_times_samples() -> None:
    negatives = Negatives(5000, torch.arange(5000) % 1000)
    assert sum(each.numel() for each in negatives.buffers()) <= 2 * 5000 + 1001


def test_banks_start_uniform() -> None:
    torch.manual_seed(0)
    bank = fill_with_noise(torch.empty(5000, D), 0.5)
    assert -0.5 <= bank.min() < -0.499
    assert 0.499 < bank.max() < 0.5
    counts = torch.histc(bank, 10)
    assert (counts - 3000).abs().max() < 5 * math.sqrt(3000)
    torch.manual_seed(0)
    assert torch.equal(bank, fill_with_noise(torch.empty(5000, D), 0.5))


def test_sizes_come_from_the_facts() -> None:
    loss = CRDLoss(num_negatives=30)
    loss.setup(facts(TARGETS))
    assert loss.student_bank.shape == loss.teacher_bank.shape == (N, D)
    loss.setup(facts(TARGETS))
    head = CRDHead(out_features=D)
    head.setup(Facts(inputs={"x": TensorFacts((B, 4, 2, 2), torch.float32)}))
    assert head(torch.zeros(B, 4, 2, 2)).shape == (B, D)
    with pytest.raises(ValueError, match=r"in_features is 16 but x has shape \(5, 8\): 8 a sample"):
        head.setup(Facts(inputs={"x": TensorFacts((B, 8), torch.float32)}))


@pytest.mark.parametrize(
    ("params", "given", "message"),
    [
        ({}, facts(), "the training set has no `targets`.*sampling: relax"),
        (
            {"num_negatives": 31},
            facts(TARGETS),
            "num_negatives is 31 but of 40 samples only 30 are left without those of",
        ),
        ({"sampling": "relax", "num_negatives": 40}, facts(), "only 39 are left without the sample itself"),
        ({}, facts(torch.zeros(N, 2, dtype=torch.int64)), r"targets have shape \(40, 2\).*one whole number for each"),
        ({"dim": 3}, facts(TARGETS), r"dim is 3 but student has shape \(5, 6\)"),
        ({"num_samples": 10}, facts(TARGETS), "num_samples is 10 but the training set has 40"),
        ({}, Facts(inputs=facts().inputs), "does not know the length of the training set; .*num_samples"),
        ({}, Facts(inputs={"student": TensorFacts((B, 2, 2), torch.float32)}, num_samples=N), "as crd_head makes them"),
    ],
)
def test_facts_that_do_not_do(params: dict[str, object], given: Facts, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CRDLoss(**{"num_negatives": K, **params}).setup(given)


def test_no_class_may_be_absent_and_a_fixed_contrast_needs_no_labels() -> None:
    loss = CRDLoss(num_negatives=20)
    loss.setup(facts(TARGETS * 2))
    assert loss(*embeddings(), torch.arange(B)).isfinite()
    inputs = {**facts().inputs, "contrast_index": TensorFacts((B, K + 1), torch.int64)}
    CRDLoss(num_negatives=10**6).setup(Facts(inputs=inputs, num_samples=N))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"student": torch.zeros(B, D + 1)}, r"student has shape \(5, 7\) but teacher has \(5, 6\)"),
        ({"student": torch.zeros(B, 2), "teacher": torch.zeros(B, 2)}, "the banks hold embeddings of 6"),
        ({"index": torch.arange(B + 1)}, "student has 5 rows, index has 6 rows"),
        ({"index": torch.arange(B).unsqueeze(1)}, r"index has shape \(5, 1\); 1 dimension"),
        ({"index": torch.arange(B) + N - 2}, "index has numbers from 38 to 42; the banks have rows 0 to 39"),
        ({"index": torch.arange(B) - 1}, "index has numbers from -1 to 3"),
        ({"index": torch.zeros(B)}, "index has type torch.float32; whole numbers"),
        ({"target": torch.full((B,), 4)}, "target has numbers from 4 to 4; the training set has classes 0 to 3"),
        ({"contrast_index": torch.zeros(B, 1, dtype=torch.int64)}, "a positive, then at least 1 negative"),
        ({"contrast_index": torch.full((B, 3), N)}, "contrast_index has numbers from 40 to 40"),
    ],
)
def test_inputs_that_do_not_fit(inputs: dict[str, Tensor], message: str) -> None:
    loss = CRDLoss(num_negatives=K)
    loss.setup(facts(TARGETS))
    good = {"student": torch.zeros(B, D), "teacher": torch.zeros(B, D), "index": torch.arange(B)}
    with pytest.raises(ValueError, match=message):
        loss(**{**good, **inputs})


def test_used_too_early() -> None:
    with pytest.raises(ValueError, match="crd has no banks yet"):
        CRDLoss()(*embeddings(), torch.arange(B))
    with pytest.raises(ValueError, match=r"does not know the classes.*call setup"):
        made()(*embeddings(), torch.arange(B))
    with pytest.raises(ValueError, match="crd_head was used before setup"):
        CRDHead()(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"num_negatives": 0}, "num_negatives is 0; it must be 1 or more"),
        ({"temperature": 0}, "temperature is 0; it must be above 0"),
        ({"momentum": 1}, "momentum is 1; it must be at least 0 and below 1"),
        ({"eps": -1}, "eps is -1; it must be 0 or more"),
        ({"sampling": "all"}, "'all'; it must be one of exact, relax"),
    ],
)
def test_wrong_params(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CRDLoss(**params)
    name = next(iter(params))
    with pytest.raises(kdcore.KdcoreError, match=name):
        kdcore.create("loss", "crd", **params)


CONFIG = """
version: 1
name: tiny
models: {teacher: {}, student: {}}
adapters:
  student_head: {type: crd_head, inputs: {x: student:0}, params: {out_features: 6}}
  teacher_head: {type: crd_head, inputs: {x: teacher:0}, params: {out_features: 6}}
stages:
  - name: distilled
    train: [student, student_head, teacher_head]
    losses:
      crd: {type: crd, inputs: {student: student_head, teacher: teacher_head}, params: {num_negatives: 3}}
"""


class Labelled(torch.utils.data.Dataset):
    targets = torch.arange(12) % 3
    num_classes = 3

    def __len__(self) -> int:
        return 12


def objective_for(tmp_path: Path, dataset: object) -> kdcore.Objective:
    file = tmp_path / "tiny.yaml"
    file.write_text(CONFIG)
    torch.manual_seed(0)
    models = {
        name: torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3)) for name in ("teacher", "student")
    }
    batch = {"input": torch.randn(4, 4), "index": torch.arange(4)}
    return kdcore.build_objective(file, models=models, example_batch=batch, dataset=dataset)


def test_in_a_config(tmp_path: Path) -> None:
    objective = objective_for(tmp_path, Labelled())
    bank = {key: value for key, value in objective.state_dict().items() if key.endswith("_bank")}
    assert [tuple(value.shape) for value in bank.values()] == [(12, 6), (12, 6)]
    before = {key: value.clone() for key, value in bank.items()}
    out = objective({"input": torch.randn(4, 4), "index": torch.arange(4)})
    out.total.backward()
    parts = ("student.", "teacher.", "student_head.", "teacher_head.")
    learned = [name for name, each in objective.named_trainable() if each.grad is not None and each.grad.any()]
    assert [part for part in parts if any(part in name for name in learned)] == ["student.", *parts[2:]]
    assert all((bank[key][:4] != before[key][:4]).any() for key in bank)
    assert all(torch.equal(bank[key][4:], before[key][4:]) for key in bank)


def test_an_unlabelled_data_set_is_named_with_the_term(tmp_path: Path) -> None:
    with pytest.raises(WiringError, match=r"term 'crd'.*could not be set up: .*does not know the length"):
        objective_for(tmp_path, None)
