"""What a distillation objective around models must do and leave alone; docs/behaviours.md lists it all."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdcore.errors import ConfigError
from kdcore.pipeline.capture import hooks_of_captures

from .toys import Net, config, make_batch, objective, one_stage

ROOT = Path(__file__).parents[2]
LOGITS = "{type: mse, inputs: {input: student, target: teacher}}"
HINT = "{type: mse, inputs: {input: student:block2, target: teacher:block2}}"
SCALED = "{s: {type: scaled, inputs: {input: student, target: teacher}}}"
BLOCKS = """
models:
  teacher: {}
  first: {inputs: ['teacher:block1@input']}
  second: {inputs: ['teacher:block2@input']}
stages:
  - name: blocks
    train: [first, second]
    losses:
      first: {type: mse, inputs: {input: first, target: teacher:block1}}
      second: {type: mse, weight: 2, inputs: {input: second, target: teacher:block2}}
"""


def nets() -> dict[str, nn.Module]:
    torch.manual_seed(1)
    return {"teacher": Net(), "student": Net()}


def copied(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def step(built: nn.Module) -> None:
    optimizer = torch.optim.SGD((each for each in built.parameters() if each.requires_grad), lr=0.5)
    built(make_batch()).total.backward()
    optimizer.step()


def test_parameters_of_losses_train_and_move_with_the_objective() -> None:
    built = objective(one_stage(SCALED), nets(), dataset=range(6))
    scale = built.losses["s"].scale
    assert id(scale) in {id(each) for each in built.parameters()}
    assert "losses.s.scale" in dict(built.named_trainable())
    before = scale.clone()
    step(built)
    assert not torch.equal(scale, before)
    built.double()
    assert (built.losses["s"].scale.dtype, built.losses["s"].bank.dtype) == (torch.float64, torch.float64)


def test_one_term_is_the_total() -> None:
    built = objective(one_stage(f"{{l: {LOGITS}}}"), nets())
    out = built(make_batch())
    assert out.total.shape == ()
    assert torch.equal(out.total.detach(), out.terms["l"])


def test_several_weighted_terms_beside_the_task_make_one_scalar() -> None:
    losses = f"{{ce: {{type: ce, weight: 0.5}}, out: {LOGITS}, hint: {HINT.replace('mse,', 'mse, weight: 3,')}}}"
    models = nets()
    built, batch = objective(one_stage(losses), models), make_batch()
    out = built(batch)
    assert out.total.shape == ()
    torch.testing.assert_close(out.total.detach(), 0.5 * out.terms["ce"] + out.terms["out"] + 3 * out.terms["hint"])
    teacher = models["teacher"]
    hidden = teacher.block2(teacher.relu(teacher.block1(batch["input"])))
    student = models["student"].train()
    twin = student.block2(student.relu(student.block1(batch["input"])))
    torch.testing.assert_close(out.terms["hint"], F.mse_loss(twin, hidden).detach())


def test_a_stage_without_losses_is_an_error_before_any_model_is_touched() -> None:
    with pytest.raises(ConfigError, match="losses"):
        config("models: {student: {}}\nstages:\n  - {name: only, train: [student]}\n")


def test_a_trained_student_loads_into_a_plain_one_which_can_be_wired_again(tmp_path: Path) -> None:
    models = nets()
    built = objective(one_stage(f"{{l: {LOGITS}}}"), models)
    step(built)
    torch.save(built.export_student().state_dict(), tmp_path / "student.pt")
    plain = Net()
    plain.load_state_dict(torch.load(tmp_path / "student.pt"))
    again = objective(one_stage(f"{{l: {LOGITS}}}"), {**models, "student": plain})
    for each in (built, again):
        each.eval()
    assert torch.equal(again(make_batch()).total, built(make_batch()).total)


def test_steps_lower_the_loss_and_leave_the_teacher() -> None:
    models = nets()
    built = objective(one_stage(f"{{l: {LOGITS}, h: {HINT}}}"), models)
    before, first = copied(models["teacher"]), built(make_batch()).total
    for _ in range(10):
        built.zero_grad()
        step(built)
    assert built(make_batch()).total < 0.5 * first
    assert not changed(models["teacher"], before)


def test_the_state_holds_losses_and_no_teacher_and_loads_again() -> None:
    first, second = (
        objective(one_stage(SCALED), nets(), dataset=range(6)),
        objective(one_stage(SCALED), nets(), dataset=range(6)),
    )
    step(first)
    state = copied(first)
    assert {name.split(".")[1] for name in state if name.startswith("models.")} == {"student"}
    assert {"losses.s.scale", "losses.s.bank"} <= set(state)
    second.load_state_dict(state)
    assert not changed(second, state)


def test_a_plain_checkpoint_loads_into_a_wired_student() -> None:
    models, batch = nets(), make_batch()
    built = objective(one_stage(f"{{l: {LOGITS}}}"), models).eval()
    torch.manual_seed(9)
    other = Net()
    models["student"].load_state_dict(other.state_dict())
    with torch.no_grad():
        expected = F.mse_loss(other.eval()(batch["input"]), models["teacher"](batch["input"]))
    torch.testing.assert_close(built(batch).total.detach(), expected)


def test_models_keep_class_attributes_and_signature_and_end_as_they_began() -> None:
    models = nets()
    models["teacher"].origin = {"trained on": "digits"}
    models["teacher"].fc.weight.requires_grad_(False)
    attributes = {name: set(vars(model)) for name, model in models.items()}
    built = objective(one_stage(f"{{l: {LOGITS}, h: {HINT}}}"), models)
    step(built)
    assert built.models["student"] is models["student"]
    assert type(models["student"]) is Net
    assert inspect.signature(models["student"].forward) == inspect.signature(Net().forward)
    built.close()
    for name, model in models.items():
        assert set(vars(model)) == attributes[name]
        assert not hooks_of_captures(dict(model.named_modules()))
    assert models["teacher"].origin == {"trained on": "digits"}
    required = [name for name, each in models["teacher"].named_parameters() if not each.requires_grad]
    assert required == ["fc.weight"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0), (2, 0, 1)])
def test_objectives_that_share_a_teacher_end_in_any_order(order: tuple[int, ...]) -> None:
    teacher = Net()
    teacher.fc.weight.requires_grad_(False)
    flags = [each.requires_grad for each in teacher.parameters()]
    text = one_stage(f"{{l: {LOGITS}}}")
    built = [objective(text, {"teacher": teacher, "student": Net()}) for _ in order]
    for number in order:
        assert not any(each.requires_grad for each in teacher.parameters())
        built[number].close()
        built[number].close()  # it has let go once and for all
    assert [each.requires_grad for each in teacher.parameters()] == flags


def test_an_objective_that_freezes_what_another_trains_gives_it_back() -> None:
    shared = Net()
    text = one_stage(f"{{l: {LOGITS}}}")
    outer = objective(text, {"teacher": Net(), "student": shared})
    inner = objective(text, {"teacher": shared, "student": Net()})
    assert not any(each.requires_grad for each in shared.parameters())
    inner.close()
    assert all(each.requires_grad for each in shared.parameters())
    outer.close()
    assert all(each.requires_grad for each in shared.parameters())


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_a_model_called_by_itself_is_only_itself(name: str, recwarn: pytest.WarningsRecorder) -> None:
    models = nets()
    built = objective(one_stage(f"{{h: {HINT}}}"), models)
    plain = Net().train(models[name].training)
    plain.load_state_dict(models[name].state_dict())
    for _ in range(2):
        assert torch.equal(models[name](make_batch()["input"]), plain(make_batch()["input"]))
    assert all(not slot._kept for node in built._nodes.values() for slot in node.capture.slots.values())
    assert not recwarn.list


def test_switching_modes_leaves_nothing_behind() -> None:
    built = objective(one_stage(f"{{h: {HINT}}}"), nets())
    for training in (True, False, True):
        built.train(training)
        built(make_batch())
        assert all(not slot._kept for node in built._nodes.values() for slot in node.capture.slots.values())


def test_blocks_of_a_student_are_fed_what_the_teachers_blocks_are_fed() -> None:
    models = nets()
    teacher, student = models.values()
    blocks = {"teacher": teacher, "first": student.block1, "second": student.block2}
    built, batch = objective(BLOCKS, blocks), make_batch()
    fed: list[torch.Tensor] = []
    handle = student.block2.register_forward_pre_hook(lambda module, args: fed.append(args[0]))
    out = built(batch)
    handle.remove()
    hidden = teacher.relu(teacher.block1(batch["input"]))
    assert torch.equal(fed[-1], hidden)
    torch.testing.assert_close(out.terms["second"], F.mse_loss(student.block2(hidden), teacher.block2(hidden)).detach())
    torch.testing.assert_close(out.total.detach(), out.terms["first"] + 2 * out.terms["second"])


def test_only_the_blocks_that_are_trained_change() -> None:
    models = nets()
    teacher, student = models.values()
    before = copied(student), copied(teacher)
    built = objective(BLOCKS, {"teacher": teacher, "first": student.block1, "second": student.block2})
    step(built)
    assert {name.split(".")[0] for name in changed(student, before[0])} == {"block1", "block2"}
    assert not changed(teacher, before[1])
    built.close()
    assert not hooks_of_captures(dict(student.named_modules()))
    assert student(make_batch()["input"]).shape == (6, 3)


def shown() -> list[tuple[str, str]]:
    """Return every test that the page of behaviours names."""
    text = (ROOT / "docs" / "behaviours.md").read_text(encoding="utf-8")
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)


def test_every_test_that_the_page_names_exists() -> None:
    assert shown()
    missing = [f"{file}::{name}" for file, name in shown() if f"\ndef {name}(" not in (ROOT / file).read_text("utf-8")]
    assert missing == []


def test_the_page_names_every_test_of_this_file() -> None:
    here = re.findall(r"^def (test_\w+)", Path(__file__).read_text(encoding="utf-8"), re.MULTILINE)
    named = {name for _, name in shown()}
    assert [name for name in here if name not in named and "the_page" not in name] == []
