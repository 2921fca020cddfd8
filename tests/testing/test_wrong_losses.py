"""Each wrong loss is caught by the check that is there for it, and by no other."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from kdcore.component import Input, Kind, Role
from kdcore.errors import PluginError
from kdcore.plugins import Registered, Registry
from kdcore.testing import CHECKS, Conformance, Example, Outcome
from tests.testing.wrong import losses

TEMPERATURE = {"type": "number", "exclusiveMinimum": 0, "default": 2.0, "description": "divides the logits"}
PARAMS = {"temperature": TEMPERATURE}
SCHEMA = {"type": "object", "additionalProperties": False, "properties": PARAMS}
# Those that take long, and one that many a wrong formula fails for its lack of a temperature.
LEFT_OUT = {"compiles", "processes", "params_count"}
INPUTS = (
    Input("student", role=Role.POSITIONS, default="student", help="logits (B, C)"),
    Input("teacher", role=Role.POSITIONS, default="teacher", help="logits (B, C)"),
)


def registered(factory: Any, **options: Any) -> Registered:
    given = {"schema": SCHEMA, "inputs": INPUTS, "summary": "a test", **options}
    return Registry().register(Kind.LOSS, "test", factory, **given)


def failures(component: Registered, examples: list[Example] | None = None, *, also: str = "") -> dict[str, str]:
    """Run every check but those left out, unless it is the one asked for."""
    conformance = Conformance(component, examples)
    trials = [each for each in conformance.trials(slow=True) if each[0].name not in LEFT_OUT - {also}]
    assert len(trials) > 20
    results = [conformance.result(*each) for each in trials]
    return {result.check: result.message for result in results if result.failed}


def test_a_right_loss_passes_every_check() -> None:
    results = Conformance(registered(losses.Right)).run()
    not_run = {result.check for result in results if result.outcome is not Outcome.PASSED}
    assert not_run == {"manifest_without_torch", "bounds_work"}  # it is not installed, and no value is a bound itself


# The wrong loss, the checks that fail, and what the message says.
WRONG = [
    (losses.ParameterFirst, "builds", "RuntimeError: there is no such fact"),
    (losses.Vector, "finite", r"a tensor of shape \(4,\) and float32; it must return a scalar"),
    (losses.NotANumber, "finite", "it returned nan: not finite"),
    (losses.CountsWrong, "finite", "told 1 before the forward pass, which then returned 20"),
    (losses.InPlace, "inputs_unchanged", "input teacher was changed in place"),
    (losses.SharedGlobal, "instances_apart", r"changed .*losses\._SEEN, which all instances share"),
    (losses.SharedByClass, "instances_apart", r"changed SharedByClass\.seen"),
    (losses.SharedDefault, "instances_apart", "changed seen, which"),
    (losses.Random, "deterministic", "two fresh instances under the same seeds returned"),
    (losses.Scalar, "parameters_early", "without a dimension.*: scale"),
    (losses.LateParameter, "parameters_early", "appeared in the first forward pass: scale"),
    (losses.StudentDetached, "gradient_reaches", "no gradient reaches input student"),
    (losses.IdleParameter, "gradient_reaches", "no gradient reaches its parameter scale"),
    (losses.TeacherLearns, "teacher_detached", r"a gradient reaches input teacher: .*teacher\.detach\(\)"),
    (losses.GradientOff, "gradients", "differs from finite differences"),
    (losses.EveryOther, "batch_order", "with the 4 samples permuted"),
    (losses.RootOfBatch, "halves", "its halves together"),
    (losses.Broadcast, "broadcast_refused", "input teacher had 1 row and the others 4"),
    (losses.Rounded, "float32", "digits are lost"),
    (losses.Double, "float32", "with float32 inputs it returned torch.float64"),
    (losses.NotUnderAutocast, "autocast", "RuntimeError"),
    (losses.DividedByNorm, "zeros", "with student all zeros it returned nan"),
    (losses.ZeroSample, "zeros", "with the first sample of student all zeros it returned nan"),
    (losses.ZerosOnBothSides, "zeros", "with student, teacher all zeros it returned nan"),
    (losses.DeadChannel, "dead_channels", "with channel 0 of student, teacher dead"),
    (losses.RootOfZero, "student_equals_teacher", "with teacher equal to student .* its gradient is not finite"),
    (losses.Steep, "gradient_bounded", r"with student all zeros the largest gradient is \S+e\+\d\d"),
    (losses.CostsSomething, "equal_value", "with teacher equal to student it returned 0.1, and"),
    (losses.ZerosCost, "equal_zeros", "with student and teacher all zeros it returned 1, though"),
    (losses.Drifts, "equal_gradient", "with teacher equal to student the largest gradient is"),
    (losses.FarFromTheOrigin, "near_equality", r"0\.001 away from its teacher"),
    (losses.OneSample, "batch_of_one", "with a batch of one sample it returned nan"),
    (
        losses.InHalf,
        "half_precision",
        "with bfloat16 inputs it returned .* in bfloat16, with the same numbers in float32",
    ),
    (losses.HalfOfIt, "half_precision", "with bfloat16 inputs it returned .* in float32, with the same numbers in"),
    (losses.TakesAnything, "bounds_refused", "the schema refuses temperature: 0, but the constructor .* takes it"),
    (losses.TakesNoNumber, "bounds_refused", "the schema refuses temperature: nan, but .* takes it"),
    (losses.NamesNothing, "bounds_refused", "says 'a wrong value', without the name temperature"),
    (losses.Asserts, "bounds_refused", "raised AssertionError: temperature. Raise ValueError"),
    (losses.Forgets, "state_continues", "is not in its state_dict"),
    (losses.KeepsNumPy, "state_continues", r"_extra_state\['seen'\]\[0\] is of type numpy.int64, and tensors, numbers"),
    (losses.LearnsInEvaluation, "evaluation_pure", "in eval mode without gradient it changed total"),
    (losses.OtherInEvaluation, "evaluation_alike", "in training it returned .*, in eval mode .*training_only = True"),
    (losses.NotPicklable, "copies", "pickle failed: .*lambda"),
    (losses.NotCopied, "copies", "after copy.deepcopy the copy gives"),
    (losses.OtherWhenCompiled, "compiles", "compiled it returned"),
    (losses.OtherDefault, "constructor_agrees", "default of temperature is 2.0 in the schema and 4.0"),
    (losses.OtherInput, "inputs_agree", "forward does not take: teacher"),
]


EXAMPLES = {
    losses.DeadChannel: Example(
        inputs=lambda generator, batch: dict(
            zip(("student", "teacher"), torch.randn(2, batch, 3, 4, generator=generator), strict=True)
        )
    ),
    losses.OneSample: Example(
        inputs=lambda generator, batch: dict(
            zip(("student", "teacher"), torch.randn(2, batch, 5, generator=generator), strict=True)
        ),
        skip={"halves": "a statistic over the batch"},
    ),
}


@pytest.mark.parametrize(
    ("factory", "check", "message"), WRONG, ids=[f"{factory.__name__}-{check}" for factory, check, _ in WRONG]
)
def test_each_is_caught_by_its_check_alone(factory: Any, check: str, message: str) -> None:
    found = failures(registered(factory), [EXAMPLES[factory]] if factory in EXAMPLES else None, also=check)
    if factory is losses.OtherInput:
        assert "unexpected keyword argument 'teacher'" in found.pop("finite")  # it cannot be called at all
    assert list(found) == [check], found
    assert re.search(message, found[check]), found[check]


def test_every_check_of_a_loss_catches_something() -> None:
    caught = {check for _, check, _ in WRONG}
    of_losses = {check.name for check in CHECKS.values() if Kind.LOSS in check.kinds}
    elsewhere = {"manifest_without_torch", "schema_strict", "bounds_accepted", "documented", "processes"}
    elsewhere |= {
        "in_objective",
        "leaves_nothing",
        "defaults_kept",
        "seeds_nothing",
        "teacher_counts",
        "other_device",
        "bounds_work",
        "graphs_released",
        "params_count",
    }
    assert of_losses - caught == elsewhere


@pytest.mark.parametrize(
    ("schema", "check", "message"),
    [
        ({**SCHEMA, "additionalProperties": True}, "schema_strict", "accepts unknown keys"),
        ({"type": "object", "properties": PARAMS}, "schema_strict", "accepts unknown keys"),
        (
            {**SCHEMA, "properties": {"temperature": {**TEMPERATURE, "maximum": 1}}},
            "schema_strict",
            "outside its own range",
        ),
        ({**SCHEMA, "required": ["temperature"]}, "schema_strict", "is required and has a default"),
        ({**SCHEMA, "properties": {"tau": TEMPERATURE}}, "constructor_agrees", "the schema has tau, which"),
        ({**SCHEMA, "properties": {}}, "constructor_agrees", "takes temperature, which the schema lacks"),
        (
            {**SCHEMA, "properties": {"temperature": {**TEMPERATURE, "minimum": 0.5}}},
            "bounds_accepted",
            "temperature: 0.5",
        ),
    ],
)
def test_schemas_that_are_wrong(schema: dict[str, Any], check: str, message: str) -> None:
    factory = losses.Narrow if check == "bounds_accepted" else losses.Right
    found = failures(registered(factory, schema=schema))
    if "tau" in schema["properties"]:
        assert "unexpected keyword argument 'tau'" in found.pop("builds")
    assert list(found) == [check]
    assert message in found[check]


def test_a_loss_for_training_only_may_differ_in_evaluation() -> None:
    assert failures(registered(losses.LeftOut)) == {}


def test_a_count_and_a_progress_of_its_own_are_let_alone() -> None:
    assert failures(registered(losses.HasACount)) == {}


def test_what_the_probe_leaves_outside_of_buffers() -> None:
    example = Example(inputs=logits, prepare=lambda loss: loss(*logits(torch.Generator(), 4).values()))
    found = failures(registered(losses.KeepsItsFirstScale), [example])
    assert list(found) == ["in_objective"], found
    assert re.search("as a term of an Objective it has the value .* left something in it", found["in_objective"])


def test_a_default_address_that_no_model_has() -> None:
    inputs = (INPUTS[0], Input("teacher", default="techer", help="logits (B, C)"))
    found = failures(registered(losses.Right, inputs=inputs), [Example(inputs=logits)])
    assert list(found) == ["in_objective"], found
    assert "techer" in found["in_objective"]


def test_a_schema_that_is_none() -> None:
    found = failures(registered(losses.Right, schema={"type": "string"}))
    assert list(found) == ["schema_strict"]
    assert "must describe an object" in found["schema_strict"]


@pytest.mark.parametrize("summary", ["", "two\nlines"])
def test_a_summary_is_one_line(summary: str) -> None:
    component = registered(losses.Right)
    wrong = replace(component, component=replace(component.component, summary=summary))
    assert list(failures(wrong)) == ["documented"]


def test_a_missing_paper_is_noted_and_no_failure() -> None:
    notes = [note for result in Conformance(registered(losses.Right)).run() for note in result.notes]
    assert notes == ["it names no paper; if the method was published, give Component.paper"]


@pytest.mark.slow
def test_state_that_differs_between_processes() -> None:
    assert "processes" not in failures(registered(losses.Remembers), [Example(inputs=logits)])
    found = failures(registered(losses.Remembers), [Example(inputs=logits)], also="processes")
    assert list(found) == ["processes"]
    assert "its buffer total differs between them" in found["processes"]


def logits(generator: torch.Generator, batch: int) -> dict[str, torch.Tensor]:
    return dict(zip(("student", "teacher"), torch.randn(2, batch, 5, generator=generator), strict=True))


@pytest.mark.parametrize(
    ("skip", "message"),
    [
        ({"halvs": "a reason"}, "(?s)skips 'halvs', which is no check.*did you mean 'halves'"),
        ({"deterministic": "a reason"}, "skips 'deterministic', which is required"),
        ({"halves": " "}, "skips 'halves' without a reason"),
    ],
)
def test_opting_out_has_its_rules(skip: dict[str, str], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        Conformance(registered(losses.Right), [Example(inputs=logits, skip=skip)])


def test_opting_out_of_what_does_not_apply_is_an_error() -> None:
    adapter = Registry().register("adapter", "test", torch.nn.Identity, schema=SCHEMA, summary="a test")
    with pytest.raises(PluginError, match=r"skips 'halves', a check that does not apply \(kind: adapter\)"):
        Conformance(adapter, [Example(skip={"halves": "a reason"})])
    found = failures(registered(losses.Right), [Example(inputs=lonely, skip={"batch_order": "by place"})])
    assert found["batch_order"] == (
        "the example skips it, but it does not apply: none of its inputs has samples. Leave it out of skip"
    )


def lonely(generator: torch.Generator, batch: int) -> dict[str, torch.Tensor]:
    return dict(zip(("student", "teacher"), torch.randn(2, 7, 5, generator=generator), strict=True))


def begun(loss: losses.FirstSets) -> None:
    loss.scale.fill_(2.0)


def test_what_the_first_batch_sets_is_prepared() -> None:
    moved = failures(registered(losses.FirstSets), [Example(inputs=logits)])
    assert set(moved) == {"gradients", "halves"}
    assert "Example(prepare=...)" in moved["gradients"]
    assert failures(registered(losses.FirstSets), [Example(inputs=logits, prepare=begun)]) == {}


def test_a_wrong_gradient_shows_behind_what_the_first_batch_sets() -> None:
    found = failures(registered(losses.FirstSetsSlopeOff), [Example(inputs=logits, prepare=begun)])
    assert list(found) == ["gradients"]


def test_how_near_the_value_must_be_is_the_methods_own_affair() -> None:
    assert failures(registered(losses.Logarithms), [Example(inputs=logits)]) == {}
    found = failures(registered(losses.Logarithms), [Example(inputs=logits, near_equality=1e-3)])
    assert list(found) == ["near_equality"]
    assert re.search(r"0\.001 away from its teacher float32 gave .* and float64 .*: its digits", found["near_equality"])


def test_equality_is_what_the_example_says() -> None:
    found = failures(registered(losses.Right), [Example(inputs=logits, equal=logits)])
    assert list(found) == ["equal_value", "equal_gradient"]
    assert "with a student equal to its teacher it returned" in found["equal_value"]


def pairs(generator: torch.Generator, batch: int) -> dict[str, torch.Tensor]:
    return logits(generator, 2 * batch)


def test_rows_that_belong_together_move_together() -> None:
    assert list(failures(registered(losses.Pairs), [Example(inputs=pairs)])) == ["halves"]
    in_pairs = Example(inputs=pairs, rows_per_sample=2, skip={"halves": "the last pair of each half counts less"})
    assert failures(registered(losses.Pairs), [replace(in_pairs, skip={})]) == {}
    assert list(failures(registered(losses.LastPairLess), [in_pairs])) == ["batch_order"]


def test_a_skipped_check_says_why() -> None:
    conformance = Conformance(registered(losses.RootOfBatch), [Example(inputs=logits, skip={"halves": "by design"})])
    (found,) = [result for result in conformance.run() if result.check == "halves"]
    assert (found.outcome, found.message, found.example) == (Outcome.SKIPPED, "by design", "default")


def test_two_examples_need_two_names() -> None:
    with pytest.raises(PluginError, match="two examples have one name: default, default"):
        Conformance(registered(losses.Right), [Example(inputs=logits), Example(inputs=logits)])


def test_a_component_without_a_usable_example_is_still_looked_at() -> None:
    inputs = (*INPUTS[:1], Input("teacher", help="features of any layer"))
    results = Conformance(registered(losses.Right, inputs=inputs)).run()
    passed = {result.check for result in results if result.outcome is Outcome.PASSED}
    assert passed == {"schema_strict", "constructor_agrees", "documented", "inputs_agree"}
    assert "there is no example of it: give Component.examples" in {result.message for result in results}
