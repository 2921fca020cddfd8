"""Data sets that are wrong from the start, or only for one sample in the middle of an epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.mistakes.good import ONE_STAGE, Edit

TRAIN = "{type: digits, params: {split: train, samples_per_class: 4}, batch_size: 16}"
STUDENT = "{type: digits_cnn, params: {width: 2, depth: 2}}"
KD = "kd: {type: kd, params: {temperature: 4}}"
LAST = "optimizer: {type: AdamW, params: {lr: 1e-3}}\n"


def images(how: str, more: str = "") -> Edit:
    """Return an edit that makes the training data odd."""
    return TRAIN, f"§{{type: images, params: {{how: {how}}}, batch_size: 16{more}}}"


def elsewhere(edit: Edit) -> Edit:
    """Return the edit without its mark: the message points to another place."""
    return edit[0], edit[1].replace("§", "")


CASES: dict[str, tuple[list[Edit], list[str]]] = {
    "no samples": ([images("empty")], ["data.train: data 'train' is empty: it has 0 samples"]),
    "no length": ([images("no length")], ["data 'train' cannot say its length: OSError: the index file is missing"]),
    "a stream": (
        [(TRAIN, "§{type: stream}")],
        ["made a Stream, which is not a map-style data set\n    give it __len__"],
    ),
    "tuples": ([images("tuple")], ["sample 0 is a tuple, not a dict\n    a data set yields dicts such as"]),
    "three items": ([images("three")], ["sample 0 is a list, not a dict"]),
    "other names": (
        [elsewhere(images("other names")), (STUDENT, f"§{STUDENT}")],
        ["batch:input: the batch has no entry 'input'\n    known entries of the batch: image, index, label"],
    ),
    "objects": ([images("objects")], ["samples .* do not make a batch: .*found <class 'object'>"]),
    "a batch that is no dict": (
        [(TRAIN, "§{type: collated, batch_size: 16}")],
        [r"its collate made \(int, int\) of samples \[0, 1, .*, not a dict\n    a batch is a dict"],
    ),
    "no targets to balance": (
        [images("''", ", sampler: balanced")],
        ["sampler: balanced needs a data set with targets.*it has none\n    use sampler: shuffle"],
    ),
    "float labels": (
        [elsewhere(images("float labels")), ("ce: cross_entropy", "ce: §cross_entropy")],
        ["class indices must be integers"],
    ),
    "words for labels": (
        [elsewhere(images("words")), ("ce: cross_entropy", "ce: §cross_entropy")],
        [r"target = batch:target \(str, str, str, str, ... 16 in all\)"],
    ),
    "another dtype": (
        [elsewhere(images("doubles")), (STUDENT, f"§{STUDENT}")],
        [r"'student' \(DigitsCNN\) failed in its forward .*float64\[16, 1, 8, 8\]"],
    ),
    "another shape": (
        [elsewhere(images("colours")), (STUDENT, f"§{STUDENT}")],
        [r"float32\[16, 3, 8, 8\]\}: RuntimeError: .* expected input\[16, 3, 8, 8\] to have 1 channels"],
    ),
    "pixels that are no numbers": (
        [elsewhere(images("nan")), ("ce: cross_entropy", "ce: §cross_entropy")],
        ["term 'ce' .* is nan on the first batch"],
    ),
    "labels beyond the outputs": (
        [images("targets"), ("ce: cross_entropy", "ce: {type: l1, inputs: {input: student, target: teacher}}")],
        ["data 'train' has labels from 0 to 11, but 'student' has 10 outputs"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_data_set_that_is_wrong_from_the_start(refusal: Any, name: str) -> None:
    edits, messages = CASES[name]
    refusal.by_rehearsal(refusal.write(ONE_STAGE, *edits), *messages)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("late file", r"data.train: data 'train': sample 35 failed: FileNotFoundError: image_35.png\n"),
        ("late key", r"samples \[32, 33, 34, 35, .*\] do not make a batch: KeyError: "),
        ("late shape", r"samples \[32, 33, 34, 35, .*\] do not make a batch: .*equal size"),
        ("late nothing", "sample 35 is a NoneType, not a dict"),
    ],
)
def test_a_sample_that_fails_in_the_middle(refusal: Any, how: str, message: str, workers: int) -> None:
    wrong = refusal.write(ONE_STAGE, images(how, f", num_workers: {workers}"))
    _failed_and_told(refusal.in_training(wrong, message))


def test_a_label_out_of_range_in_the_middle(refusal: Any) -> None:
    wrong = refusal.write(ONE_STAGE, elsewhere(images("late label")), ("ce: cross_entropy", "ce: §cross_entropy"))
    folder = refusal.in_training(
        wrong,
        r"term 'ce' .* target = batch:target int64\[8\] of 2 to 11: .*target holds 11; with 10 classes, labels are 0 to 9",
        r"on samples 32, 33, 34, 35, .* of data 'train'",
    )
    _failed_and_told(folder)


def test_a_label_out_of_range_in_the_validation_data(refusal: Any) -> None:
    val = "  val: {type: images, params: {how: late label}, batch_size: 16}\nmodels:\n"
    wrong = refusal.write(ONE_STAGE, ("models:\n", val), ("ce: cross_entropy", "ce: §cross_entropy"))
    _failed_and_told(refusal.in_training(wrong, r"target holds 11; .* \(on samples 32, 33, .* of data 'val'\)"))


@pytest.mark.parametrize("how", ["late label", "late unknown"])
def test_a_label_out_of_range_that_only_the_metrics_see(refusal: Any, how: str) -> None:
    test = f"  test: {{type: images, params: {{how: {how}}}, batch_size: 16}}\nmodels:\n"
    wrong = refusal.write(
        ONE_STAGE,
        ("models:\n", test),
        ("      ce: cross_entropy\n", ""),
        ("  - name: distill", "  - §name: distill"),
    )
    low, high = (0, 11) if how == "late label" else (-1, 9)
    message = (
        f"batch:target holds labels from {low} to {high}, but there are 10 outputs, for labels from 0 to 9\n    mend"
    )
    _failed_and_told(refusal.in_training(wrong, message))


def test_a_worker_that_is_killed(refusal: Any) -> None:
    wrong = refusal.write(ONE_STAGE, elsewhere(images("late kill", ", num_workers: 1")))
    # Who notices first is a matter of chance: torch's watch over its workers, or the end of a pipe.
    told = "data 'train' cannot be read|a worker process of a loader died"
    noticed = r"DataLoader worker \(pid.*(exited unexpectedly|is killed by signal)|Connection reset by peer|EOFError"
    _failed_and_told(refusal.in_training(wrong, rf"({told}): .*({noticed})(.|\n)*num_workers: 0 shows whether"))


def test_a_last_batch_of_one_sample(refusal: Any) -> None:
    wrong = refusal.write(
        ONE_STAGE,
        (TRAIN, "{type: images, batch_size: 39}"),
        (STUDENT, "§{type: net, params: {how: norm}}"),
    )
    refusal.by_rehearsal(
        wrong,
        r"'student' \(Net\) failed in its forward .*Expected more than 1 value per channel .*\(in the last batch of data "
        r"'train', which holds 1 of its 40 samples\)\n    the first batch does: choose another batch_size for 'train' than",
    )


def test_a_loss_that_fails_on_the_last_batch(refusal: Any) -> None:
    wrong = refusal.write(ONE_STAGE, (KD, "kd: §{type: odd, params: {how: late/key}}"))
    refusal.by_rehearsal(
        wrong,
        r"term 'kd' .* student = student float32\[8, 10\].*: KeyError: 'hidden' \(in the last batch of data 'train', "
        "which holds 8 of its 40",
    )


def test_a_loss_that_fails_in_the_middle(refusal: Any) -> None:
    wrong = refusal.write(ONE_STAGE, (KD, "kd: §{type: odd, params: {how: middle/key}}"))
    folder = refusal.in_training(
        wrong, r"term 'kd' .* student = student float32\[16, 10\].*: KeyError: 'hidden' \(on samples 16"
    )
    _failed_and_told(folder)


def test_a_stage_that_diverges(refusal: Any) -> None:
    wrong = refusal.write(
        ONE_STAGE,
        (LAST, "optimizer: {type: SGD, params: {lr: 1e30}}\n"),
        ("  - name: distill", "  - §name: distill"),
    )
    folder = refusal.in_training(
        wrong,
        r"stage 'distill' diverged: in step \d+ term ce is (nan|inf) .*on samples 1\d, .*\n    lower the learning",
    )
    _failed_and_told(folder)


def _failed_and_told(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    assert (results["status"], results["stages"]) == ("failed", [])
    assert (folder / "report.html").is_file()
