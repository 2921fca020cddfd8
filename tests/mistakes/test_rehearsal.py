"""Mistakes that only one batch shows: seen before anything is trained, by `kd validate --dry-run` and `kd run` alike."""

from __future__ import annotations

from typing import Any

import pytest

from tests.mistakes.good import ONE_STAGE, TEXT, TWO_STAGES, Edit

KD = "kd: {type: kd, params: {temperature: 4}}"
CE = "ce: cross_entropy\n"
NEAR = "near: {type: mse, inputs: {input: proj, target: teacher:block1}}"
PROJ = "  proj: {type: conv1x1, inputs: {x: student:block1}, like: teacher:block1}\n"
BEST = "    best: {metric: val/student/accuracy}\n"
LAST = "optimizer: {type: AdamW, params: {lr: 1e-3}}\n"
TRAIN = "{type: digits, params: {split: train, samples_per_class: 4}, batch_size: 16}"
VAL = "{type: digits, params: {split: val, samples_per_class: 2}, batch_size: 32}"
STUDENT = "{type: digits_cnn, params: {width: 2, depth: 2}}"


def near(target: str) -> Edit:
    """Return an edit that compares the adapter with something else."""
    return NEAR, f"near: §{{type: mse, inputs: {{input: proj, target: '{target}'}}}}"


def kd(inputs: str) -> Edit:
    """Return an edit that binds the inputs of `kd`."""
    return KD, f"kd: §{{type: kd, inputs: {{{inputs}}}}}"


def stage(line: str) -> Edit:
    """Return an edit that adds a line to the last stage."""
    return BEST, f"{BEST}    {line}\n"


CASES: dict[str, tuple[list[Edit], list[str]]] = {
    # addresses
    "a module that does not exist": (
        [near("teacher:blok1")],
        [r"stages.hint.losses.near: teacher:blok1: 'teacher' has no module 'blok1'\n    did you mean 'block1'"],
    ),
    "a path of another model": (
        [near("teacher:layer4.1.conv2")],
        ["'teacher' has no module 'layer4.1.conv2'\n    (did you mean|known modules of 'teacher': block1, )"],
    ),
    "a module that does not exist, for a shape": (
        [(PROJ, PROJ.replace("{type", "§{type").replace("like: teacher:block1", "like: teacher:block7"))],
        [r"adapters.proj: teacher:block7: .* no module 'block7'\n    did you mean 'block"],
    ),
    "a module that does not exist, for an adapter": (
        [(PROJ, PROJ.replace("{type", "§{type").replace("x: student:block1", "x: student:block7"))],
        [r"adapters.proj: student:block7: .* no module 'block7'\n    did you mean 'block"],
    ),
    "a call that never happens": (
        [near("teacher:block1@1")],
        ["'block1' ran once, there is no call 1\n    leave the call number out"],
    ),
    "a call number of a whole model": (
        [kd("teacher: teacher@0")],
        ["teacher@0: a whole model runs once, so its output takes no call number"],
    ),
    "a key of a tensor": (
        [near("teacher:block1#0")],
        [r"teacher:block1#0: '#0' looks into a tensor of shape \(16, 4, 8, 8\)\n    keys look into tuples and dicts"],
    ),
    "a key that the output has not": (
        [kd("teacher: 'teacher#logit'")],
        [
            "teacher#logit: the output of 'teacher' has no tensor named 'logit'\n    .*teacher@raw#logit reads the model's"
        ],
    ),
    "an argument that the call has not": (
        [near("teacher:block1@input#mask")],
        ["the call has no argument 'mask'\n    known names: input"],
    ),
    "an entry that the batch has not": (
        [(CE, "ce: §{type: cross_entropy, inputs: {target: batch:label}}\n")],
        ["batch:label: the batch has no entry 'label'\n    known entries of the batch: index, input, target"],
    ),
    "an entry that the batch has not, for a model": (
        [(STUDENT, STUDENT.replace("{type", "§{type").replace("}}", "}, inputs: [batch:inputs]}"))],
        [r"models.student: batch:inputs: the batch has no entry 'inputs'\n    did you mean 'input'"],
    ),
    "a module where a tensor is wanted": (
        [near("teacher:block1@module")],
        ["term 'near' .* target = teacher:block1@module ConvBlock", "wants something else than what is bound"],
    ),
    # shapes and classes
    "shapes that do not fit": (
        [near("teacher:block2")],
        [
            r"input = proj float32\[16, 4, 8, 8\], target = teacher:block2 float32\[16, 8, 4, 4\]",
            "an adapter can change",
        ],
    ),
    "features for logits": (
        [kd("teacher: teacher:block1")],
        [r"student has shape \(16, 10\) but teacher has \(16, 4, 8, 8\)"],
    ),
    "labels for numbers": (
        [(CE, "ce: §{type: mse, inputs: {input: student, target: batch:target}}\n")],
        [r"target = batch:target int64\[16\] of 0 to \d"],
    ),
    "another number of classes in the teacher": (
        [("{width: 4, depth: 2}", "{width: 4, depth: 2, num_classes: 12}"), (KD, "kd: §{type: kd}")],
        [r"student has shape \(16, 10\) but teacher has \(16, 12\)", "need the same classes or vocabulary"],
    ),
    "fewer classes than the data has": (
        [("{width: 2, depth: 2}", "{width: 2, depth: 2, num_classes: 7}"), (CE, "ce: §cross_entropy\n")],
        ["the data set has 10 classes.*Build the model with 10 classes"],
    ),
    "a dimension that does not exist": (
        [(CE, "ce: §{type: cross_entropy, params: {class_dim: 3}}\n")],
        ["there is no dimension class_dim=3"],
    ),
    # what can learn
    "a random teacher": (
        [
            (
                "{type: digits_cnn, params: {width: 4, depth: 2}, weights: as_built}",
                "§{type: digits_cnn, params: {width: 4, depth: 2}}",
            )
        ],
        [
            "the model 'teacher' is frozen in stage 'hint'.*it would be random\n    give it weights: <file>, add it to train:"
        ],
    ),
    "a random adapter": (
        [("train: [student, proj]", "train: [student]"), (PROJ, PROJ.replace("{type", "§{type"))],
        ["the adapter 'proj' is frozen in stage 'hint', but no earlier stage trained it"],
    ),
    "a term that looks at nothing trained": (
        [kd("student: teacher")],
        [
            r"term 'kd' looks at nothing that stage 'distill' trains \(student\): student = teacher float32.*\n    bind an input"
        ],
    ),
    "a gradient that reaches nothing": (
        [
            (f"      {CE}      {KD}", "      kd: {type: kd, inputs: {student: teacher, teacher: student}}"),
            ("  - name: distill", "  - §name: distill"),
        ],
        ["depends on what it trains|no term's gradient reaches"],
    ),
    "freezing what does not exist": (
        [stage("freeze: §[student.blok1]")],
        [r"'student.blok1' matches nothing that this stage trains\n    did you mean 'student.block1'"],
    ),
    "freezing what is frozen": (
        [stage("freeze: §[teacher.block1]")],
        ["'teacher' is not trained in this stage, so all of it is"],
    ),
    "freezing all": (
        [stage("freeze: [student]"), ("  - name: distill", "  - §name: distill")],
        ["'student' is trained in stage 'distill' but has no parameter that may learn\n    .*loosen freeze:"],
    ),
    "an optimizer pattern that matches nothing": (
        [(f"{LAST}{BEST}", "optimizer: §{type: AdamW, groups: [{pattern: '*.bais', params: {weight_decay: 0}}]}\n")],
        [
            r"pattern '\*\.bais' of the optimizer's groups matches no parameter\n    (did you mean|known parameters:) .*bias"
        ],
    ),
    "a cycle that is over too early": (
        [stage("scheduler: §{type: OneCycleLR, params: {max_lr: 0.1, total_steps: 1}, interval: step}")],
        ["OneCycleLR is over after 1 steps, but the stage has 3\n    write total_steps: auto"],
    ),
    "weights for losses that no model returns": (
        [stage("balancer: §{type: weighted_sum, params: {model_weight: {student.loss: 2}}}")],
        ["model_weight lists student.loss, but no model returns such a loss"],
    ),
    # adapters
    "an adapter without sizes": (
        [(PROJ, PROJ.replace("{type", "§{type").replace(", like: teacher:block1", ""))],
        [r"'proj' could not be set up for x: \[16, 2, 8, 8\]: conv1x1 does not know its out_channels; give like:"],
    ),
    "an adapter like something of another rank": (
        [(PROJ, PROJ.replace("{type", "§{type").replace("like: teacher:block1", "like: batch:target"))],
        [r"like: \[16\]: like has shape \(16,\); conv1x1 takes out_channels from its dimension 1"],
    ),
    "a matcher of two dimensions": (
        [
            (
                PROJ,
                PROJ.replace("{type: conv1x1", "§{type: feature_matcher").replace(
                    "like: teacher:block1", "like: teacher:block2"
                ),
            )
        ],
        [r"'proj' could not be set up for x: \[16, 2, 8, 8\], like: \[16, 8, 4, 4\]: "],
    ),
    # what is measured
    "labels that the batch has not": (
        [stage("metrics: §{target: batch:label}")],
        ["metrics of 'student': batch:label holds no class labels\n    name the labels with target:"],
    ),
    "labels that are none": (
        [stage("metrics: §{models: [student], target: batch:input}")],
        ["batch:input holds no class labels"],
    ),
    "a k of all classes": (
        [(BEST, "    metrics: §{kinds: [{type: top_k, k: 10}]}\n")],
        ["top_10 is always right, for it has 10 outputs"],
    ),
    # data
    "more samples than there are": (
        [
            ("split: train, samples_per_class: 4", "split: train, samples_per_class: 4000"),
            ("train: {type", "train: §{type"),
        ],
        ["samples_per_class is 4000, but the smallest class .*\n    give a number from 1 to"],
    ),
    "no full batch": (
        [(TRAIN, "§{type: digits, params: {split: train, samples_per_class: 4}, batch_size: 64, drop_last: true}")],
        ["has 40 samples, fewer than batch_size 64, and drop_last leaves that batch out\n    lower batch_size"],
    ),
    "validation data of another kind": (
        [(VAL, "§{type: images, params: {how: other names}}")],
        ["data 'val' cannot be evaluated: .*the batch has no entry 'input'"],
    ),
    "validation data with other labels": (
        [(VAL, "§{type: images, params: {how: float labels}}"), (f"      {CE}", "")],
        ["'student' cannot be judged on data 'val': batch:target holds no class labels"],
    ),
    "labels beyond the outputs, as the data set says": (
        [(VAL, "§{type: images, params: {how: targets}}")],
        ["data 'val' has labels from 0 to 11, but 'student' has 10 outputs, for labels from 0 to 9"],
    ),
    # machine
    "a device that is not there": (
        [("device: cpu", "device: §cuda:77")],
        ["device 'cuda:77' cannot be used: .*\n    known devices: auto, cpu"],
    ),
    "a device that is none": ([("device: cpu", "device: §gpu")], ["device 'gpu' cannot be used: "]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_that_one_batch_shows(refusal: Any, name: str) -> None:
    edits, messages = CASES[name]
    refusal.by_rehearsal(refusal.write(TWO_STAGES, *edits), *messages)


@pytest.mark.parametrize(
    ("edit", "messages"),
    [
        (
            ("dim: 8,", "dim: 8, vocab_size: 300,"),
            [r"student has shape \(64, 256\) but teacher has \(64, 300\)", "need the same classes or vocabulary"],
        ),
        (
            (
                "{type: text_transformer, params: {dim: 8,",
                "§{type: text_transformer, params: {vocab_size: 100, dim: 8,",
            ),
            [
                r"models.teacher: 'teacher' \(TextTransformer\) failed in its forward on batch:input",
                r"int64\[4, 16\] of 10 to 1\d\d",
                r"an Embedding of 100 rows, which are 0 to 99, was asked for rows 10 to 1\d\d(.|\n)*a vocab_size of at least 1\d\d",
            ],
        ),
        (
            (
                "{type: text_transformer, params: {dim: 4, depth: 1, heads: 1, max_length: 16}",
                "§{type: text_transformer, params: {dim: 4, depth: 1, heads: 1, max_length: 8}",
            ),
            [r"tokens \(B, T\) with T up to 8 are needed"],
        ),
        (
            (
                "kd: {type: kd, wrapper: masked, inputs: {mask: batch:mask}}",
                "kd: §{type: kd, wrapper: masked, inputs: {mask: batch:maks}}",
            ),
            [r"the batch has no entry 'maks'\n    did you mean 'mask'"],
        ),
        (
            ("train: {type: text_bytes, params: {", "train: §{type: text_bytes, params: {files: [no/such/*.txt], "),
            [r"no file matches 'no/such/\*.txt'"],
        ),
    ],
)
def test_a_mistake_with_text(refusal: Any, edit: Edit, messages: list[str]) -> None:
    refusal.by_rehearsal(refusal.write(TEXT, edit), *messages)


def test_a_mistake_in_the_last_stage_shows_before_the_first_trains(refusal: Any) -> None:
    wrong = refusal.write(TWO_STAGES, kd("teacher: teacher:block1"))
    refusal.by_rehearsal(wrong, "stages.distill.losses.kd: ")


@pytest.mark.parametrize("text", [ONE_STAGE, TWO_STAGES, TEXT])
def test_without_a_mistake_all_of_it_works(refusal: Any, text: str) -> None:
    """Else every refusal above could have another reason; the learning rate is 1e-3, which is a number."""
    right = refusal.write(text)
    for arguments in (("validate", right.file), ("validate", right.file, "--dry-run"), ("run", right.file, "--quiet")):
        called = refusal.call(*arguments)
        assert called.code == 0, called.err
    (folder,) = (refusal.folder / "runs").glob("*/*")
    last = (folder / "metrics.jsonl").read_text().splitlines()[-1]
    assert '"lr": [0.001]' in last
