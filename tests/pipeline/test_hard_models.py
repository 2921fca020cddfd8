"""Models that make wiring hard: auxiliary heads, checkpoints, in-place code, shared modules, odd calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kdcore.contracts import Facts
from kdcore.errors import AddressError, WiringError
from kdcore.pipeline.build import build_objective

from .toys import DictNet, InplaceNet, Net, config, make_batch, objective, one_stage, registry

PAIR = "{l: {type: mse, inputs: {input: %s, target: %s}}, ce: ce}"


class Auxiliary(nn.Module):
    """Has a head that runs in training only, as GoogLeNet's."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 4)
        self.aux = nn.Linear(4, 3)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x)
        if self.training:
            self.aux(hidden)
        return self.fc(hidden)


class Layers(nn.Module):
    """Runs one layer as often as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 3
        self.layer = nn.Linear(5, 5)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.layer(x)
        return self.fc(x)


def test_a_term_that_exists_in_training_only_is_left_out_of_evaluation() -> None:
    losses = "{main: ce, aux: {type: ce, inputs: {input: 'student:aux'}}}"
    built = objective(one_stage(losses), {"student": Auxiliary()})
    assert set(built(make_batch()).terms) == {"main", "aux"}
    built.eval()
    out = built(make_batch())
    assert set(out.terms) == {"main"} == set(built.evaluated)
    torch.testing.assert_close(out.total, out.terms["main"])


@pytest.mark.parametrize("wrapper", ["", "wrapper: halved, "])
def test_a_loss_can_say_that_it_is_for_training_only(wrapper: str) -> None:
    class Bank(nn.Module):
        training_only = True

        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            assert self.training
            return F.mse_loss(input, target.detach())

    class Halved(nn.Module):
        def __init__(self, make_loss: Callable[[], nn.Module]) -> None:
            super().__init__()
            self.loss = make_loss()

        def forward(self, **inputs: Tensor) -> Tensor:
            return self.loss(**inputs) / 2

    plugins = registry()
    plugins.register("loss", "bank", Bank)
    plugins.register("wrapper", "halved", Halved)
    text = one_stage(f"{{ce: ce, b: {{type: bank, {wrapper}inputs: {{input: student, target: 'student:fc'}}}}}}")
    built = build_objective(
        config("models: {student: {}}\n" + text, plugins), models={"student": Net()}, example_batch=make_batch()
    )
    built.eval()
    assert set(built(make_batch()).terms) == {"ce"}


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_hint_inside_a_checkpoint_teaches_or_is_refused(reentrant: bool) -> None:
    class Checkpointed(Net):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(super().forward, x.requires_grad_(), use_reentrant=reentrant)

    text = one_stage(PAIR % ("student:block2", "teacher:block2"))
    models = {"teacher": Net(), "student": Checkpointed()}
    if reentrant:
        with pytest.raises(WiringError, match=r"student:block2: .*carries no gradient(.|\n)*use_reentrant=False"):
            objective(text, models)
    else:
        objective(text, models)(make_batch()).total.backward()
        assert models["student"].block2.weight.grad is not None


def test_an_output_changed_in_place_by_an_adapter_is_an_error() -> None:
    class Clipper(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach().relu_()

    plugins = registry()
    plugins.register("adapter", "clipper", Clipper)
    text = "models: {student: {}, teacher: {}}\nadapters: {clip: {type: clipper, inputs: {x: student}}}\n" + one_stage(
        "{ce: ce, l: {type: mse, inputs: {input: teacher, target: clip}}}", train="student, teacher"
    )
    with pytest.raises(AddressError, match="student: the tensor, or one it shares memory with, was changed in place"):
        build_objective(config(text, plugins), models={"student": Net(), "teacher": Net()}, example_batch=make_batch())


def test_an_element_of_a_captured_tuple_changed_in_place_is_an_error() -> None:
    class Spoils(DictNet):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, x: Tensor, scale: float = 1.0) -> dict[str, Any]:
            first, _ = self.pair(x)
            out = super().forward(x)
            first.data.zero_()
            first.detach().mul_(0)
            return out

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x * 1, x * 2

    text = one_stage("{ce: ce, l: {type: mse, inputs: {input: student:body, target: 'student:pair#0'}}}")
    with pytest.raises(AddressError, match="changed in place"):
        objective(text, {"student": Spoils()})


def test_like_is_only_a_shape() -> None:
    """Neither a later in-place change nor a repeated module matters for a shape."""
    text = "adapters: {proj: {type: projector, inputs: {x: 'student:block2'}, like: 'teacher:norm'}}\n" + one_stage(
        "{l: {type: mse, inputs: {input: proj, target: 'batch:input'}}}", train="student, proj"
    )
    built = objective(text, {"teacher": InplaceNet(), "student": Net()})
    assert built._nodes["proj"].module.linear.weight.shape == (5, 4)
    assert built._nodes["teacher"].capture.slots == {}
    assert "teacher" not in {node.name for node, _ in built._passes[True].plan.steps}


def test_freeze_patterns_hold_when_somebody_else_calls_train() -> None:
    student = Net()
    built = objective(one_stage("{ce: ce}") + "    freeze: [student.block1]\n", {"student": student})
    student.train()
    before = student.block1[1].running_mean.clone()
    built(make_batch())
    assert torch.equal(student.block1[1].running_mean, before)


def test_a_loss_may_not_adopt_a_model_s_module() -> None:
    class Adopts(nn.Module):
        def setup(self, facts: Facts) -> None:
            self.norm = facts.inputs["head"]

        def forward(self, input: Tensor, head: nn.Module) -> Tensor:
            return input.square().mean()

    plugins = registry()
    plugins.register("loss", "adopts", Adopts)
    text = "models: {student: {}, teacher: {}}\n" + one_stage(
        "{a: {type: adopts, inputs: {input: student, head: 'teacher:fc@module'}}}"
    )
    with pytest.raises(WiringError, match=r"term 'a' made a module of 'teacher' its own, as 'norm'"):
        build_objective(config(text, plugins), models={"student": Net(), "teacher": Net()}, example_batch=make_batch())


def test_what_is_frozen_and_what_is_trained_may_not_share() -> None:
    teacher, student = Net(), Net()
    student.block1 = teacher.block1
    with pytest.raises(WiringError, match=r"'student' is trained and 'teacher' is frozen .* share block1.0.weight"):
        objective(one_stage(PAIR % ("student", "teacher")), {"teacher": teacher, "student": student})


def test_inference_mode_works() -> None:
    built = objective(one_stage(PAIR % ("student:block2", "teacher:block2")), {"teacher": Net(), "student": Net()})
    built.eval()
    with torch.inference_mode():
        assert torch.isfinite(built(make_batch()).total)


def test_calls_counted_from_the_end_follow_the_pass() -> None:
    model = Layers()
    built = objective(
        one_stage("{l: {type: mse, inputs: {input: 'student:layer@-2', target: 'batch:input'}}, ce: ce}"),
        {"student": model},
    )
    model.times = 5
    batch = make_batch()
    x = batch["input"]
    for _ in range(4):
        x = model.layer(x)
    torch.testing.assert_close(built(batch).terms["l"], F.mse_loss(x, batch["input"]).detach())


def test_the_probe_does_not_step_an_optimizer_that_lives_in_backward() -> None:
    model = Net()
    stepped = []
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(stepped.append)
    objective(one_stage("{ce: ce}"), {"student": model})
    assert stepped == []


def test_gradients_that_the_caller_had_are_still_there() -> None:
    model = Net()
    gradient = torch.ones_like(model.fc.weight)
    model.fc.weight.grad = gradient
    objective(one_stage("{ce: ce}"), {"student": model})
    assert model.fc.weight.grad is gradient


def test_export_leaves_what_the_user_froze_frozen() -> None:
    model = Net()
    model.block1.requires_grad_(False)
    built = objective(one_stage("{ce: ce}") + "    freeze: [student.block2]\n", {"student": model})
    exported = built.export_student()
    assert not exported.block1[0].weight.requires_grad
    assert exported.block2.weight.requires_grad


def test_compiled_models_run_to_their_end() -> None:
    student = torch.compile(Net(), backend="eager")
    built = objective(
        one_stage("{l: {type: mse, inputs: {input: student, target: teacher}}}"), {"teacher": Net(), "student": student}
    )
    steps = {node.name: stop for node, stop in built._passes[True].plan.steps}
    assert steps["student"] is None
    assert torch.isfinite(built(make_batch()).total)


def test_scripted_teachers_work() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(5)
            self.fc = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.norm(x))

    built = objective(
        one_stage(PAIR % ("student", "teacher")), {"teacher": torch.jit.script(Plain()), "student": Net()}
    )
    built(make_batch()).total.backward()


def test_the_input_of_a_keyword_call_is_the_first_of_forward() -> None:
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()
            self.fc = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.inner(mask=torch.ones_like(x), x=x))

    class Inner(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return x * mask

    losses = "{ce: ce, l: {type: mse, inputs: {input: 'student:inner', target: 'student:inner@input'}}, m: {type: mse, inputs: {input: 'student:inner', target: 'student:inner@input#mask'}}}"
    text = one_stage(losses) + "    balancer: weighted_sum\n"
    with pytest.raises(WiringError, match="term 'l' looks at nothing that"):
        objective(text, {"student": Keywords()})
    out = objective(
        text.replace("l: {type", "l: {weight: 0, type").replace("m: {type", "m: {weight: 0, type"),
        {"student": Keywords()},
    )(make_batch())
    assert float(out.terms["l"]) == 0.0
    assert float(out.terms["m"]) > 0.0


def test_a_shared_module_has_two_names() -> None:
    model = Net()
    model.twin = model.block2
    built = objective(
        one_stage("{ce: ce, l: {type: mse, inputs: {input: 'student:twin', target: teacher:block2}}}"),
        {"student": model, "teacher": Net()},
    )
    assert torch.isfinite(built(make_batch()).total)


def test_models_in_double_precision_keep_their_terms_exact() -> None:
    models = {"teacher": Net().double(), "student": Net().double()}
    batch = {**make_batch(), "input": make_batch()["input"].double()}
    built = objective(one_stage(PAIR % ("student:block2", "teacher:block2")), models, batch)
    assert built(batch).total.dtype is torch.float64
