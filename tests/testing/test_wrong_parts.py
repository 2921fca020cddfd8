"""Each wrong part of the other kinds is caught by the check that is there for it, and a right one by none."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from kdcore.component import Input, Kind
from kdcore.plugins import Registered, Registry
from kdcore.testing import Conformance, Example
from tests.testing.wrong import parts

SCHEMA = {"type": "object", "additionalProperties": False, "properties": {}}
INPUTS = {Kind.ADAPTER: (Input("x", help="features (B, C, ...)"),)}
EXAMPLES = {
    Kind.MODEL: [Example(inputs=lambda generator, batch: {"input": torch.randn(batch, 3, generator=generator)})],
    Kind.BALANCER: [
        Example(
            inputs=lambda generator, batch: dict(zip(("ce", "kd"), torch.rand(2, generator=generator), strict=True)),
            terms={"ce": 1.0, "kd": 0.5},
        )
    ],
}


def registered(kind: Kind, factory: Any) -> Registered:
    options = {"schema": SCHEMA, "inputs": INPUTS.get(kind, ()), "summary": "a test"}
    return Registry().register(kind, "test", factory, **options)


def failures(kind: Kind, factory: Any) -> dict[str, str]:
    conformance = Conformance(registered(kind, factory), EXAMPLES.get(kind))
    results = [conformance.result(*each) for each in conformance.trials() if each[0].name != "compiles"]
    return {result.check: result.message for result in results if result.failed}


RIGHT = [
    (Kind.WRAPPER, parts.Wrapper),
    (Kind.BALANCER, parts.Balancer),
    (Kind.ADAPTER, parts.Adapter),
    (Kind.OUTPUT_EXTRACTOR, parts.Extractor),
    (Kind.DATASET, parts.Data),
    (Kind.MODEL, parts.Model),
    (Kind.CRITERION, parts.Criterion),
]


@pytest.mark.parametrize(("kind", "factory"), RIGHT, ids=[str(kind) for kind, _ in RIGHT])
def test_a_right_one_passes(kind: Kind, factory: Any) -> None:
    assert failures(kind, factory) == {}


WRONG = [
    (Kind.WRAPPER, parts.TeacherPassedTwice, "teacher_detached", "a gradient reaches input teacher"),
    (Kind.WRAPPER, parts.KeepsInputs, "state_continues", "is not in its state_dict"),
    (Kind.WRAPPER, parts.KeepsTheFacts, "passes_on", "was not told the facts of its inputs"),
    (Kind.WRAPPER, parts.StandsStill, "passes_on", "was not told the progress"),
    (Kind.WRAPPER, parts.MakesItAnew, "passes_on", r"no submodule that make_loss\(\) made was called"),
    (Kind.BALANCER, parts.DropsATerm, "gradient_reaches", "no gradient reaches input kd"),
    (Kind.BALANCER, parts.IgnoresWeights, "weights_count", "with weight 3 for the term ce instead of 1 .* as before"),
    (Kind.BALANCER, parts.ByPlace, "terms_named", "with the terms in another order it returned"),
    (Kind.BALANCER, parts.NeedsWeights, "terms_named", "with weight None for the term ce, .*raised TypeError"),
    (Kind.BALANCER, parts.OtherInEvaluation, "evaluation_alike", "in training it returned .*, in eval mode"),
    (Kind.BALANCER, parts.ChangesTheTerms, "inputs_unchanged", "input ce was changed in place"),
    (Kind.ADAPTER, parts.AdapterWithoutGradient, "gradient_reaches", "no gradient reaches input x"),
    (Kind.ADAPTER, parts.NoModule, "builds", "returned a NoModule, not an nn.Module"),
    (Kind.OUTPUT_EXTRACTOR, parts.BareTensor, "extracts", "it must return kdcore.contracts.Extracted"),
    (Kind.OUTPUT_EXTRACTOR, parts.ScalesItsInput, "inputs_unchanged", "input output was changed in place"),
    (Kind.OUTPUT_EXTRACTOR, parts.Detaches, "extracts", "its named 'features' has no gradient, though"),
    (
        Kind.OUTPUT_EXTRACTOR,
        parts.DrawsWhatItExtracts,
        "deterministic",
        "two fresh instances under the same seeds returned",
    ),
    (Kind.OUTPUT_EXTRACTOR, parts.VectorAsLoss, "extracts", "its loss 'aux' is a tensor of shape"),
    (Kind.DATASET, parts.RandomAfterAll, "random", "it says random = False, but sample 0 depends on the seed"),
    (Kind.DATASET, parts.OwnGenerator, "samples", "sample 0, seeded alike, is another when a copy reads"),
    (Kind.DATASET, parts.Tuples, "samples", "sample 0 is a tuple of .*; samples are dicts"),
    (Kind.DATASET, parts.Indexed, "samples", "which the engine adds"),
    (Kind.DATASET, parts.WrongLabels, "labels", r"sample 2 has target 0 but targets\[2\] is 1"),
    (Kind.DATASET, parts.TooManyClasses, "labels", "the label 1 but num_classes is 1"),
    (Kind.DATASET, parts.NotOfOneSize, "batch", "stack expects each tensor to be equal size"),
    (Kind.DATASET, parts.Empty, "samples", "it is empty"),
    (Kind.MODEL, parts.RowsMixed, "batch_order", "rows depend on their place"),
    (Kind.MODEL, parts.Hoarder, "evaluation_pure", "it changed calls"),
    (Kind.CRITERION, parts.DrawsScores, "deterministic", "two fresh instances under the same seeds returned"),
    (Kind.CRITERION, parts.ScoresOfRows, "scores", r"its score of a weight of shape \(8, 12\) under pattern 1x1 is a"),
    (Kind.CRITERION, parts.InfiniteScores, "scores", "its score .* is not finite"),
    (Kind.CRITERION, parts.ChangesGradients, "scores", "it changed a gradient in place"),
    (Kind.CRITERION, parts.ForgetsScores, "scores_continue", "its scores 3 steps later are others"),
    (Kind.CRITERION, parts.IdleGradients, "gradients_told", "the same whatever the gradients: set it to False"),
    (Kind.CRITERION, parts.SecretGradients, "gradients_told", "update is never called in training, but it changes"),
    (Kind.CRITERION, parts.OnlyTheLatest, "gradients_told", "accumulates is False.* earlier gradients change"),
    (Kind.CRITERION, parts.OneForAllWeights, "criteria_apart", "an update of fc.weight changed the scores of conv"),
    (Kind.CRITERION, parts.DoubleScores, "scores_dtype", "with dtype = None and float64 weights it keeps a tensor"),
]


@pytest.mark.parametrize(
    ("kind", "factory", "check", "message"), WRONG, ids=[f"{kind}-{part.__name__}" for kind, part, _, _ in WRONG]
)
def test_each_is_caught_by_its_check_alone(kind: Kind, factory: Any, check: str, message: str) -> None:
    found = failures(kind, factory)
    if factory is parts.NoModule:
        assert found.pop("inputs_agree", None) is None  # there is no forward to look at
    assert list(found) == [check], found
    assert re.search(message, found[check]), found[check]


def test_a_balancer_that_refuses_weights_passes() -> None:
    terms = EXAMPLES[Kind.BALANCER][0].inputs
    conformance = Conformance(registered(Kind.BALANCER, parts.RefusesWeights), [Example(inputs=terms)])
    assert [result.message for result in conformance.run() if result.failed] == []


def test_criteria_that_share_their_scores() -> None:
    found = failures(Kind.CRITERION, parts.SharedSums)
    assert "training one instance changed the scores of another" in found["criteria_apart"]


def test_a_criterion_that_does_not_say_whether_it_needs_gradients() -> None:
    class Silent:
        update = score = state_dict = load_state_dict = lambda self, *args: None

    found = failures(Kind.CRITERION, Silent)
    assert "it has no needs_gradients; see kdcore.contracts.Criterion" in found["scores"]


def test_what_workers_cannot_be_given() -> None:
    found = failures(Kind.DATASET, parts.Open)
    assert "pickle failed" in found["copies"]


MANIFEST = """
@hookimpl
def losses():
    schema = {"type": "object", "additionalProperties": False, "properties": {}}
    return [Component(name="NAME", factory="kd_plugin_NAME.loss:Loss", schema=schema, summary="a loss", check=CHECK,
        examples="kd_plugin_NAME.examples:EXAMPLES",
        inputs=(Input("student", default="student", help="logits"), Input("teacher", default="teacher", help="logits")))]
"""
LOSS = '''
"""A right loss."""
import torch
from torch import nn
from kdcore.shapes import check_same_shape
class Loss(nn.Module):
    """The mean squared difference."""
    def forward(self, student, teacher):
        check_same_shape(student=student, teacher=teacher)
        dtype = torch.promote_types(student.dtype, torch.float32)
        return (student.to(dtype) - teacher.detach().to(dtype)).square().mean()
'''
EXAMPLE = """
import torch
from kdcore.testing import Example
def inputs(generator, batch):
    return {name: torch.randn(batch, 4, generator=generator) for name in ("student", "teacher")}
EXAMPLES = [Example(inputs=inputs)]
"""


def offer(install: Any, name: str, *, before: str = "", check: str = "None", examples: str = EXAMPLE) -> str:
    manifest = before + MANIFEST.replace("NAME", name).replace("CHECK", check)
    install(f"kd-plugin-{name}", manifest, files={"loss.py": LOSS, "examples.py": examples})
    return f"kd-plugin-{name}"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("heavyone", {"before": "import torch\n"}),
        ("heavytwo", {"before": "def look(params, context):\n    import torch\n    return []\n", "check": "look"}),
    ],
)
def test_a_manifest_or_check_that_imports_torch(kd: Any, install: Any, name: str, options: dict[str, str]) -> None:
    called = kd("plugins", "check", offer(install, name, **options))
    assert called.code == 1
    assert called.out.count("FAILED") == 1
    assert re.search("FAILED +manifest_without_torch: .*torch is imported", called.out.replace("\n           ", " "))


def test_the_command_says_what_passed(kd: Any, install: Any) -> None:
    distribution = offer(install, "rightone")
    called = kd("plugins", "check", "rightone")
    assert called.code == 0
    assert called.out.splitlines()[0] == f"loss 'rightone' ({distribution} 1.2.3)"
    assert "  42 passed" in called.out
    assert kd("plugins", "check", "loss/rightone").out == called.out
    assert kd("plugins", "check", distribution, "--kind", "loss").out == called.out


def test_the_command_as_json(kd: Any, install: Any) -> None:
    import json

    offer(install, "jsonone", before="import torch\n")
    called = kd("plugins", "check", "jsonone", "--json")
    assert called.code == 1
    (found,) = json.loads(called.out)
    assert (found["kind"], found["name"], found["failed"]) == ("loss", "jsonone", True)
    failed = [each for each in found["results"] if each["outcome"] == "failed"]
    assert [(each["check"], each["required"]) for each in failed] == [("manifest_without_torch", True)]


@pytest.mark.parametrize(
    ("name", "examples", "message"),
    [
        ("exone", "EXAMPLES = 3", "kd_plugin_exone.examples:EXAMPLES is a int"),
        ("extwo", "EXAMPLE = []", "cannot be imported: module .* has no attribute 'EXAMPLES'"),
        ("exthree", "import no_such_thing", "cannot be imported: No module named 'no_such_thing'"),
        ("exfour", EXAMPLE.replace("inputs=inputs", "inputs=inputs, skip={'finite': 'no'}"), "which is required"),
    ],
)
def test_examples_that_are_none(kd: Any, install: Any, name: str, examples: str, message: str) -> None:
    called = kd("plugins", "check", offer(install, name, examples=examples))
    assert called.code == 1
    assert re.search(message, called.err), called.err


def test_an_unknown_name(kd: Any) -> None:
    called = kd("plugins", "check", "no_such_component")
    assert called.code == 1
    assert "no component is called 'no_such_component'" in called.err
    assert "check needs the NAME" in kd("plugins", "check").err
