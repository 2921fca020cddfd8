"""Models, losses and other components that do something else than they should: named, never a traceback."""

from __future__ import annotations

from typing import Any

import pytest

from tests.mistakes.good import ONE_STAGE, Edit

STUDENT = "{type: digits_cnn, params: {width: 2, depth: 2}}"
TRAIN = "{type: digits, params: {split: train, samples_per_class: 4}, batch_size: 16}"
KD = "kd: {type: kd, params: {temperature: 4}}"
LAST = "    optimizer: {type: AdamW, params: {lr: 1e-3}}\n"

# What is raised inside a component, and how it is told.
FAULTS = {
    "key": "KeyError: 'hidden'",
    "attribute": "AttributeError: 'Tensor' object has no attribute 'hidden_states'",
    "assertion": "AssertionError",
    "division": "ZeroDivisionError: division by zero",
    "own": "Fault: of its own kind",
}


def model(how: str, more: str = "", mark: str = "§") -> Edit:
    """Return an edit that makes the student an odd model."""
    return STUDENT, f"{mark}{{type: net, params: {{how: {how}}}{more}}}"


def loss(how: str) -> Edit:
    """Return an edit that makes one loss an odd one."""
    return KD, f"kd: §{{type: odd, params: {{how: {how}}}}}"


def adapter(how: str) -> list[Edit]:
    """Return the edits that compare an odd adapter's output with the teacher's."""
    return [
        (
            "stages:\n",
            f"adapters:\n  odd: §{{type: odd, params: {{how: {how}}}, inputs: {{x: student:block1}}}}\nstages:\n",
        ),
        ("train: [student]", "train: [student, odd]"),
        (KD, "kd: {type: mse, inputs: {input: odd, target: student:block1}}"),
    ]


def balancer(how: str) -> Edit:
    """Return an edit that adds an odd balancer."""
    return LAST, f"{LAST}    balancer: §{{type: odd, params: {{how: {how}}}}}\n"


BOUND = r"student = student float32\[16, 10\], teacher = teacher float32\[16, 10\]"

CASES: dict[str, tuple[list[Edit], list[str]]] = {
    # calls
    "a model that needs another input": (
        [(STUDENT, "§two_inputs")],
        [
            r"'student' \(TwoInputs\) failed in its forward on batch:input .*missing 1 required positional argument: 'mask'",
            r"its forward is called as \(input, mask\): bind that with inputs:.*batch:input, batch:target, batch:index",
        ],
    ),
    "a model that is called by another name": (
        [(STUDENT, "§{type: two_inputs, inputs: {input: batch:input, attention_mask: batch:target}}")],
        ["unexpected keyword argument 'attention_mask'", r"its forward is called as \(input, mask\)"],
    ),
    "a model that is given too much": (
        [(STUDENT, STUDENT.replace("{type", "§{type").replace("}}", "}, inputs: [batch:input, batch:target]}"))],
        ["its forward is called as "],
    ),
    "a module that runs twice": (
        [
            model("twice", mark=""),
            (KD, "kd: {type: kd, inputs: {student: student:relu}}"),
            ("      kd: {", "      kd: §{"),
        ],
        ["'relu' ran 2 times, so the address is ambiguous\n    say which call: @0 to @1, or @-1 for the last"],
    ),
    "a module that never runs": (
        [
            model("logits", mark=""),
            (KD, "kd: {type: kd, inputs: {student: student:idle}}"),
            ("      kd: {", "      kd: §{"),
        ],
        ["'idle' exists but did not run in the forward pass"],
    ),
    # outputs
    "a model that returns an object": (
        [model("object")],
        [
            r"the output of 'student' \(SimpleNamespace\) cannot be read",
            r"output: \{type: item, params: \{key: scores\}\}",
        ],
    ),
    "a model that returns a dict of other names": (
        [model("dict")],
        [r"the output of 'student' \(\{scores: float32\[16, 10\], sizes: NoneType\}\) cannot be read"],
    ),
    "a model that returns nothing": ([model("nothing")], [r"the output of 'student' \(NoneType\) cannot be read"]),
    "a raw output where a tensor is wanted": (
        [
            model("output", mark=""),
            (KD, "kd: {type: kd, inputs: {student: student@raw}}"),
            ("      kd: {", "      kd: §{"),
        ],
        ["term 'kd' .* failed with student = student@raw SimpleNamespace"],
    ),
    "a model that returns one row": (
        [model("one row", mark=""), ("ce: cross_entropy", "ce: §cross_entropy")],
        [r"input = student float32\[1, 10\], target = batch:target int64\[16\]"],
    ),
    "a model of numbers that are none": (
        [model("nan", mark=""), ("ce: cross_entropy", "ce: §cross_entropy")],
        ["term 'ce' .* is nan on the first batch.*; input is not finite already\n    look for weights and samples"],
    ),
    "an item that the output has not": (
        [model("dict", ", output: {type: item, params: {key: score}}")],
        [r"the output of 'student' .* cannot be read: .*'score'"],
    ),
    "an extractor that returns a tensor": (
        [(STUDENT, STUDENT.replace("{type", "§{type").replace("}}", "}, output: {type: odd, params: {how: tensor}}}"))],
        [r"the output extractor of 'student' returned float32\[16, 10\], not an Extracted"],
    ),
    "an extractor that returns nothing": (
        [
            (
                STUDENT,
                STUDENT.replace("{type", "§{type").replace("}}", "}, output: {type: odd, params: {how: nothing}}}"),
            )
        ],
        ["the output extractor of 'student' returned NoneType"],
    ),
    "a model that is no module": ([(STUDENT, "§lookup")], ["model 'lookup' .* returned a function, not an nn.Module"]),
    # results of losses
    "a loss that returns a vector": (
        [loss("vector")],
        [
            rf"term 'kd' \(loss 'odd' \(.*odd.py\)\) failed with {BOUND}: a loss returns a scalar, found shape \(16,\)",
            r"mend the loss, for example by \.mean\(\)",
        ],
    ),
    "a loss that returns nothing": (
        [loss("nothing")],
        [r"a loss returns a scalar tensor or \(sum, count\), found NoneType"],
    ),
    "a loss that returns a number": ([loss("number")], ["found float\n    mend the loss"]),
    "a loss that returns a dict": ([loss("dict")], [r"found \{loss: float32\[\]\}"]),
    "a loss that returns an integer": ([loss("integer")], [r"found int64\[\]"]),
    "a loss that returns a complex number": ([loss("complex")], [r"found complex64\[\]"]),
    "a loss that counts nothing": (
        [loss("count of none")],
        [r"returns \(sum, count\), two scalars, found \(float32\[\], NoneType\)"],
    ),
    "a loss that counts but does not sum": ([loss("vector and count")], [r"found \(float32\[16\], int\)"]),
    "a loss that is no number": ([loss("nan")], [rf"term 'kd' .* is nan on the first batch, with {BOUND}\n"]),
    "a loss that is no module": (
        [(KD, "kd: §no_module")],
        ["the factory of loss 'no_module' .* returned a builtin_function_or_method"],
    ),
    "a balancer that returns a vector": (
        [balancer("vector")],
        [r"balancer 'odd' .* must return a scalar"],
    ),
    "an adapter that returns nothing": (
        [
            *adapter("nothing")[1:],
            (adapter("nothing")[0][0], adapter("nothing")[0][1].replace("§", "")),
            ("      kd: {", "      kd: §{"),
        ],
        ["term 'kd' .* failed with input = odd NoneType", "wants something else than what is bound"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_component_that_does_something_else(refusal: Any, name: str) -> None:
    edits, messages = CASES[name]
    text = ONE_STAGE
    for old, new in edits[:-1]:
        # A later edit may change what an earlier one has put in.
        assert text.count(old) == 1
        text = text.replace(old, new)
    refusal.by_rehearsal(refusal.write(text, edits[-1]), *messages)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([model("called/FAULT")], r"models.student: 'student' \(Net\) failed in its forward on batch:input with .*: "),
        ([model("built/FAULT")], "models.student: model 'net' .* could not be built for 'student' with params .*: "),
        ([loss("called/FAULT")], rf"stages.distill.losses.kd: term 'kd' .* failed with {BOUND}: "),
        ([loss("built/FAULT")], "stages.distill.losses.kd: term 'kd' could not be built: "),
        ([loss("set up/FAULT")], "stages.distill.losses.kd: term 'kd' .* could not be set up: "),
        (adapter("called/FAULT"), r"adapters.odd: 'odd' \(Adapter\) failed in its forward on student:block1: "),
        (adapter("set up/FAULT"), r"adapters.odd: 'odd' could not be set up for x: \[16, 2, 8, 8\]: "),
        ([balancer("called/FAULT")], "stages.distill.balancer: balancer 'odd' .* failed on the terms ce, kd: "),
        ([balancer("built/FAULT")], "stages.distill.balancer: balancer 'odd' .*: "),
        (
            [(STUDENT, "§{type: digits_cnn, output: {type: odd, params: {how: called/FAULT}}}")],
            r"models.student: the output of 'student' \(float32\[16, 10\]\) cannot be read: ",
        ),
        (
            [(STUDENT, "§{type: digits_cnn, output: {type: odd, params: {how: built/FAULT}}}")],
            "models.student: output extractor 'odd' .* could not be built: ",
        ),
        (
            [(TRAIN, "§{type: images, params: {how: built/FAULT}}")],
            "data.train: dataset 'images' .* could not be built: ",
        ),
        (
            [(TRAIN, "§{type: collated, params: {how: collated/FAULT}}")],
            r"data.train: data 'train': samples \[0, 1, .*\] do not make a batch: ",
        ),
    ],
    ids=lambda value: value.partition(": ")[0] if isinstance(value, str) else "",
)
def test_whatever_a_component_raises_is_told_with_its_place(
    refusal: Any, fault: str, edits: list[Edit], message: str
) -> None:
    edits = [(old, new.replace("FAULT", fault)) for old, new in edits]
    refusal.by_rehearsal(refusal.write(ONE_STAGE, *edits), message + FAULTS[fault])


def test_a_wrapper_that_fails(refusal: Any) -> None:
    wrong = refusal.write(ONE_STAGE, (KD, "kd: §{type: kd, wrapper: odd}"))
    refusal.by_rehearsal(wrong, f"term 'kd' .* failed with {BOUND}: {FAULTS['key']}")


def test_the_traceback_is_shown_to_who_asks(refusal: Any) -> None:
    wrong = refusal.write(ONE_STAGE, loss("called/key"))
    with pytest.raises(Exception, match="term 'kd'") as caught:
        refusal.call("validate", wrong.file, "--dry-run", "--plugin", refusal.plugin, "--traceback")
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "memory",
            r"out of memory in stage 'distill': CUDA out of memory. Tried to allocate 2.00 TiB; besides .*\n    lower batch_size",
        ),
        ("device", "an index out of range, for example a label without a class.*\n    run with --set device=cpu"),
    ],
)
@pytest.mark.parametrize("moment", ["called", "late", "middle"])
def test_what_a_device_refuses(refusal: Any, moment: str, fault: str, message: str) -> None:
    wrong = refusal.write(ONE_STAGE, (KD, f"kd: {{type: odd, params: {{how: {moment}/{fault}}}}}"))
    if moment == "middle":
        refusal.in_training(wrong, message)
    else:
        refusal.by_rehearsal(wrong, message)
