"""The Objective: values, gradients, frozen parts, captures, export."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdcore.contracts import Facts
from kdcore.errors import AddressError, ConfigError, WiringError
from kdcore.pipeline.assembly import Assembly
from kdcore.pipeline.capture import StopForward, hooks_of_captures
from kdcore.pipeline.objective import Share
from kdcore.pipeline.wire import wire

from .toys import DictNet, Head, InplaceNet, Net, config, make_batch, objective, one_stage

HINT = "{hint: {type: mse, inputs: {input: student:block2, target: teacher:block2}}}"
CE = "{ce: ce}"


def nets() -> dict[str, nn.Module]:
    torch.manual_seed(1)
    return {"teacher": Net(), "student": Net()}


def test_total_and_terms_equal_a_hand_written_step() -> None:
    models = nets()
    built = objective(
        one_stage(
            "{ce: {type: ce, weight: 0.3}, l2: {type: mse, weight: 2, inputs: {input: student, target: teacher}}}"
        ),
        models,
    )
    batch = make_batch(seed=3)
    out = built(batch)
    out.total.backward()
    by_hand = copy.deepcopy(models["student"])
    by_hand.zero_grad()
    by_hand.block1[1].reset_running_stats()
    logits, soft = by_hand(batch["input"]), models["teacher"](batch["input"]).detach()
    ce, l2 = F.cross_entropy(logits, batch["target"]), F.mse_loss(logits, soft)
    (0.3 * ce + 2 * l2).backward()
    assert out.terms.keys() == {"ce", "l2"}
    torch.testing.assert_close(out.terms["ce"], ce.detach())
    torch.testing.assert_close(out.terms["l2"], l2.detach())
    torch.testing.assert_close(out.total, 0.3 * ce + 2 * l2)
    for mine, theirs in zip(models["student"].fc.parameters(), by_hand.fc.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    assert not out.terms["ce"].requires_grad
    assert out.terms["ce"].dtype is torch.float32


def test_forward_passes_stop_after_the_last_module_needed() -> None:
    models = nets()
    built = objective(one_stage(HINT), models)
    for model in models.values():
        model.fc.register_forward_pre_hook(lambda *_: pytest.fail("fc ran"))
    built(make_batch()).total.backward()


def test_the_stop_passes_through_a_model_that_catches_exceptions() -> None:
    class Stubborn(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                return super().forward(x)
            except Exception:
                return torch.zeros(len(x), 3)

    built = objective(one_stage(HINT), {"teacher": Stubborn(), "student": Net()})
    ran = []
    built._nodes["teacher"].module.fc.register_forward_hook(lambda *_: ran.append(1))
    built(make_batch())
    assert ran == []
    assert not issubclass(StopForward, Exception)


def test_a_module_that_runs_twice_needs_a_call_number() -> None:
    text = "{l: {type: mse, inputs: {input: %s, target: teacher:block2}}}"
    with pytest.raises(AddressError, match=r"'relu' ran 2 times.*ambiguous(.|\n)*@0 to @1, or @-1"):
        objective(one_stage(text % "student:relu"), nets())
    with pytest.raises(AddressError, match=r"ran 2 times, there is no call 2"):
        objective(one_stage(text % "student:relu@2"), nets())


@pytest.mark.parametrize(
    ("address", "expected"),
    [("student:relu@0", 0), ("student:relu@1", 1), ("student:relu@-1", 1), ("student:relu@-2", 0)],
)
def test_call_numbers_select_the_call(address: str, expected: int) -> None:
    models = nets()
    seen: list[torch.Tensor] = []
    models["student"].relu.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    text = one_stage(f"{{l: {{type: mse, inputs: {{input: {address}, target: teacher:block2}}}}}}")
    built = objective(text, models)
    seen.clear()
    batch = make_batch()
    value = built(batch).terms["l"]
    teacher = models["teacher"]
    target = teacher.block2(teacher.relu(teacher.block1(batch["input"])))
    torch.testing.assert_close(value, F.mse_loss(seen[expected], target))


def test_a_capture_changed_in_place_is_an_error_with_both_remedies() -> None:
    text = one_stage("{l: {type: mse, inputs: {input: student:norm, target: batch:input}}, ce: ce}")
    with pytest.raises(
        AddressError, match=r"student:norm.*changed in place(.|\n)*previous module.*clone_captures: true"
    ):
        objective(text, {"student": InplaceNet()})


def test_clone_captures_sees_the_value_before_the_change() -> None:
    text = "models: {student: {clone_captures: true}}\n" + one_stage(
        "{l: {type: mse, inputs: {input: student:norm, target: batch:input}}, ce: ce}"
    )
    model = InplaceNet()
    built = objective(text, {"student": model})
    batch = make_batch()
    value = built(batch).terms["l"]
    torch.testing.assert_close(
        value, F.mse_loss(F.batch_norm(batch["input"], None, None, training=True), batch["input"])
    )


def test_a_frozen_teacher_stays_in_eval_whatever_calls_train() -> None:
    models = nets()
    built = objective(one_stage("{l: {type: mse, inputs: {input: student, target: teacher}}}"), models)
    before = {name: value.clone() for name, value in models["teacher"].state_dict().items()}
    built.train()
    models["teacher"].train()
    built(make_batch()).total.backward()
    assert not models["teacher"].training
    assert all(torch.equal(value, before[name]) for name, value in models["teacher"].state_dict().items())
    assert all(parameter.grad is None for parameter in models["teacher"].parameters())
    assert not any(parameter.requires_grad for parameter in models["teacher"].parameters())


def test_gradient_passes_through_a_frozen_head_to_the_student() -> None:
    text = "models: {teacher: {}, student: {}, head: {inputs: [student:block2]}}\n" + one_stage(
        "{l: {type: mse, inputs: {input: head, target: teacher}}}"
    )
    models = {**nets(), "head": Head()}
    built = objective(text, models)
    built(make_batch()).total.backward()
    assert models["student"].block2.weight.grad is not None
    assert models["head"].fc.weight.grad is None


def test_mutual_learning_trains_both_models() -> None:
    losses = "{a: {type: mse, inputs: {input: student, target: teacher}}, b: {type: mse, inputs: {input: teacher, target: student}}}"
    models = nets()
    built = objective(one_stage(losses, train="student, teacher"), models)
    built(make_batch()).total.backward()
    for model in models.values():
        assert model.fc.weight.grad is not None
    assert {key.split(".")[1] for key in built.state_dict() if key.startswith("models.")} == {"student", "teacher"}


def test_frozen_models_stay_out_of_the_state_dict_but_move_along() -> None:
    models = nets()
    built = objective(one_stage("{l: {type: mse, inputs: {input: student, target: teacher}}}"), models)
    assert {key.split(".")[1] for key in built.state_dict()} == {"student"}
    assert {id(each) for each in built.parameters()} == {id(each) for each in models["student"].parameters()}
    built.double()
    assert next(models["teacher"].parameters()).dtype is torch.float64


ADAPTED = "adapters: {proj: {type: projector, inputs: {x: student:block2}, like: teacher:block2}}\n" + one_stage(
    "{hint: {type: mse, inputs: {input: proj, target: teacher:block2}}}", train="student, proj"
)


def test_adapters_are_complete_when_the_objective_is() -> None:
    models = {"teacher": Net(width=7), "student": Net(width=4)}
    built = objective(ADAPTED, models)
    names = {name for name, _ in built.named_trainable()}
    assert {"proj.linear.weight", "proj.linear.bias"} <= names
    assert built._nodes["proj"].module.linear.weight.shape == (7, 4)
    built(make_batch()).total.backward()
    assert built._nodes["proj"].module.linear.weight.grad is not None
    assert "like" not in str(built.terms)


def test_a_frozen_adapter_that_nothing_trained_is_an_error() -> None:
    with pytest.raises(WiringError, match=r"adapter 'proj' is frozen in stage 'only'(.|\n)*add it to train:"):
        objective(ADAPTED.replace("student, proj", "student"), nets())


def test_losses_with_parameters_and_banks_are_submodules_and_the_probe_leaves_no_trace() -> None:
    class Data:
        num_classes = 3

        def __len__(self) -> int:
            return 9

    text = one_stage("{s: {type: scaled, inputs: {input: student, target: teacher}}}")
    built = objective(text, nets(), dataset=Data())
    state = built.state_dict()
    assert state["losses.s.bank"].shape == (9, 3)
    assert torch.count_nonzero(state["losses.s.bank"]) == 0
    built(make_batch())
    assert torch.count_nonzero(built.state_dict()["losses.s.bank"]) > 0
    bank = built.state_dict()["losses.s.bank"].clone()
    built.eval()
    built(make_batch())
    assert torch.equal(built.state_dict()["losses.s.bank"], bank)


def test_the_probe_undoes_itself() -> None:
    models = {"teacher": Net(dropout=0.5), "student": Net(dropout=0.5)}
    before = {name: copy.deepcopy(model.state_dict()) for name, model in models.items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    objective(one_stage("{ce: ce, l: {type: mse, inputs: {input: student, target: teacher}}}"), models)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])
    for name, model in models.items():
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[name][key]), (name, key)
    assert all(parameter.grad is None for parameter in models["student"].parameters())


def test_what_no_gradient_reaches_is_reported_and_stays_as_it_is() -> None:
    models = nets()
    checked = config("models: {teacher: {}, student: {}}\n" + one_stage(HINT))
    assembly = Assembly.build(checked, torch.device("cpu"), given=models)
    wiring = wire(checked.stages[0], assembly, make_batch(), Facts())
    assert set(wiring.unreached) == {f"student.{path}" for path, _ in models["student"].named_parameters() if not path.startswith("block")}  # fmt: skip
    wiring.objective(make_batch()).total.backward()
    assert models["student"].fc.weight.grad is None
    assert all(parameter.requires_grad for parameter in models["student"].parameters())


def test_one_stage_after_the_other_on_the_same_models() -> None:
    models = nets()
    stages = (
        "models: {teacher: {}, student: {}}\nstages:\n"
        f"  - {{name: hint, train: [student], losses: {HINT}, freeze: [student.block1]}}\n"
        "  - {name: teach, train: [teacher], losses: {l: {type: mse, inputs: {input: teacher, target: student}}}}\n"
    )
    first = objective(stages, models, stage="hint")
    assert "student.block1.0.weight" not in dict(first.named_trainable())
    first.close()
    assert all(parameter.requires_grad for model in models.values() for parameter in model.parameters())
    second = objective(stages, models, stage="teach")
    assert {name.split(".")[0] for name, _ in second.named_trainable()} == {"teacher"}
    assert not any(parameter.requires_grad for parameter in models["student"].parameters())


def test_a_failed_build_leaves_the_models_as_they_were() -> None:
    models = nets()
    with pytest.raises(AddressError):
        objective(one_stage("{l: {type: mse, inputs: {input: 'student:nowhere', target: teacher}}}"), models)
    assert all(parameter.requires_grad for model in models.values() for parameter in model.parameters())
    assert all(not hooks_of_captures(dict(model.named_modules())) for model in models.values())


def test_a_deep_copied_student_does_not_write_into_the_original() -> None:
    models = nets()
    built = objective(one_stage(HINT), models)
    twin = copy.deepcopy(models["student"])
    original = built._nodes["student"].capture
    original.begin(None)
    twin(make_batch()["input"])
    assert original.watches["block2", "output"].calls == 0
    original.end()


def test_hooks_are_off_outside_the_objective() -> None:
    models = nets()
    objective(one_stage(HINT), models)
    output = models["student"](make_batch()["input"])
    assert output.shape == (6, 3)


def test_captures_are_cleared_after_each_step_even_after_an_error() -> None:
    models = nets()
    built = objective(one_stage(HINT + ""), models)
    built(make_batch())
    bad = {**make_batch(), "input": torch.randn(6, 4)}
    with pytest.raises(WiringError, match=r"'teacher' \(Net\) failed in its forward on batch:input"):
        built(bad)
    for node in built._nodes.values():
        assert all(not slot._kept for slot in node.capture.slots.values())
        assert not node.capture.active
    built(make_batch())


def test_export_gives_the_plain_student_back() -> None:
    models = nets()
    built = objective(one_stage(HINT), models)
    exported = built.export_student()
    assert type(exported) is Net
    assert hooks_of_captures(dict(exported.named_modules())) == []
    assert all(parameter.requires_grad for parameter in exported.parameters())
    Net().load_state_dict(exported.state_dict())
    assert built(make_batch()).total.requires_grad
    with pytest.raises(WiringError, match=r"no model 'studnt'(.|\n)*did you mean 'student'"):
        built.export_student("studnt")


def test_a_bare_sequential_student_works() -> None:
    student = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    built = objective(
        one_stage("{ce: ce, l: {type: mse, inputs: {input: 'student:0', target: teacher:block1}}}"),
        {"teacher": Net(), "student": student},
    )
    built(make_batch()).total.backward()
    assert student[0].weight.grad is not None


def test_one_student_layer_may_be_compared_with_two_teacher_layers() -> None:
    losses = "{a: {type: mse, inputs: {input: student:block2, target: teacher:block1}}, b: {type: mse, inputs: {input: student:block2, target: teacher:block2}}}"
    built = objective(one_stage(losses), nets())
    first = built(make_batch())
    assert torch.equal(built(make_batch()).terms["a"], first.terms["a"])


def test_raw_named_and_nested_outputs() -> None:
    losses = (
        "{a: {type: mse, inputs: {input: 'student#hidden#1', target: 'student@raw#hidden#0'}}, "
        "b: {type: mse, inputs: {input: student:head@input, target: 'student:body'}}, ce: ce}"
    )
    model = DictNet()
    built = objective(one_stage(losses), {"student": model})
    batch = make_batch()
    out = built(batch)
    hidden = model.body(batch["input"])
    torch.testing.assert_close(out.terms["a"], F.mse_loss(2 * hidden, hidden).detach())
    torch.testing.assert_close(out.terms["b"], torch.zeros(()))
    assert "student.aux" in out.terms
    torch.testing.assert_close(out.total, out.terms["a"] + out.terms["b"] + out.terms["ce"] + out.terms["student.aux"])


def test_constants_and_keyword_arguments_reach_the_model() -> None:
    text = "models: {student: {inputs: {x: 'batch:input', scale: 3.0}}}\n" + one_stage(
        "{ce: ce, l: {type: mse, inputs: {input: 'student@raw#hidden#0', target: student:body}}}"
    )
    model = DictNet()
    out = objective(text, {"student": model})(make_batch())
    body = model.body(make_batch()["input"])
    torch.testing.assert_close(out.terms["l"], F.mse_loss(3 * body, body).detach())


def test_a_submodule_can_be_given_to_a_loss() -> None:
    models = nets()
    built = objective(
        one_stage("{m: {type: uses_module, inputs: {input: student:fc@input, head: teacher:fc@module}}}"), models
    )
    out = built(make_batch())
    out.total.backward()
    assert models["student"].block2.weight.grad is not None
    assert models["teacher"].fc.weight.grad is None


def test_parts_of_a_step_add_up_to_the_whole_for_losses_over_positions() -> None:
    """The mean of two halves' means is not the mean of the whole when positions are uneven."""
    model = nn.Linear(5, 3)
    batch = make_batch(6)
    batch["target"] = torch.tensor([0, -100, -100, 1, 2, 0])
    text = one_stage("{t: {type: token_ce, weight: 2}}")
    built = objective(text, {"student": model}, batch)
    built(batch).total.backward()
    whole = model.weight.grad.clone()
    model.weight.grad = None
    halves = [{key: value[part] for key, value in batch.items()} for part in (slice(0, 2), slice(2, 6))]
    counts = {"t": sum(built.count(half)["t"] for half in halves)}
    totals = []
    for half, fraction in zip(halves, (2 / 6, 4 / 6), strict=True):
        out = built(half, Share(fraction, counts))
        out.total.backward()
        totals.append(out.total.detach())
    torch.testing.assert_close(model.weight.grad, whole)
    torch.testing.assert_close(sum(totals), built(batch).total.detach())
    naive = sum(built(half).total.detach() for half in halves) / 2
    assert abs(float(naive - sum(totals))) > 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (one_stage("{l: {type: mse, inputs: {input: 'student:blok2', target: teacher}}}"), r"'student' has no module 'blok2'(.|\n)*did you mean 'block2'"),
        (one_stage("{l: {type: mse, inputs: {input: 'student:unused', target: teacher}}}"), r"'unused' exists but did not run"),
        (one_stage("{ce: {type: ce, inputs: {target: 'batch:labels'}}}"), r"batch has no entry 'labels'"),
        (one_stage("{l: {type: mse, inputs: {input: 'student#hidden', target: teacher}}}"), r"no tensor named 'hidden'"),
        (one_stage("{l: {type: mse, inputs: {input: teacher, target: student}}}"), r"no term of stage 'only' depends on what it trains"),
        (one_stage("{ce: ce}", train="student, teacher"), r"trains 'teacher', but no loss looks at it"),
        (one_stage("{ce: ce}", extra="") + "    freeze: [student.blok*]\n", r"'student.blok\*' matches nothing"),
        (one_stage("{ce: ce}") + "    freeze: [student]\n", r"'student' is trained in stage 'only' but has no parameter that may learn"),
    ],
)  # fmt: skip
def test_mistakes_name_place_and_repair(text: str, message: str) -> None:
    with pytest.raises((AddressError, ConfigError, WiringError), match=message) as caught:
        objective(text, nets())
    assert "<config>:" in str(caught.value)


def test_shapes_that_do_not_fit_name_term_addresses_and_shapes() -> None:
    text = one_stage("{l: {type: mse, inputs: {input: student, target: teacher}}}")
    with pytest.raises(
        WiringError, match=r"term 'l'.*input = student float32\[6, 3\], target = teacher float32\[6, 4\]"
    ):
        objective(text, {"teacher": Net(classes=4), "student": Net(classes=3)})


def test_freeze_patterns_keep_modules_in_eval() -> None:
    models = nets()
    built = objective(one_stage(CE) + "    freeze: [student.block1]\n", models)
    built.train()
    before = models["student"].block1[1].running_mean.clone()
    built(make_batch()).total.backward()
    assert torch.equal(models["student"].block1[1].running_mean, before)
    assert models["student"].block1[0].weight.grad is None
    assert models["student"].relu.training


def test_terms_are_float32_under_autocast() -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            seen.append((input.dtype, torch.is_autocast_enabled("cpu")))
            return input.square().mean()

    from .toys import config, registry

    plugins = registry()
    plugins.register("loss", "spy", Spy)
    checked = config(
        "models: {student: {}}\n" + one_stage("{s: {type: spy, inputs: {input: student, target: 'batch:input'}}}"),
        plugins,
    )
    from kdcore.pipeline.build import build_objective

    built = build_objective(checked, models={"student": Net()}, example_batch=make_batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = built(make_batch())
    assert seen[-1] == (torch.float32, False)
    assert out.total.dtype is torch.float32


def test_any_term_name_will_do() -> None:
    losses = ", ".join(f"{name}: ce" for name in ("type", "values", "train", "forward", "items", "loss"))
    out = objective(one_stage(f"{{{losses}}}"), nets())(make_batch())
    assert set(out.terms) == {"type", "values", "train", "forward", "items", "loss"}


def test_an_objective_cannot_be_copied() -> None:
    built = objective(one_stage(CE), nets())
    with pytest.raises(TypeError, match="export_student"):
        copy.deepcopy(built)
