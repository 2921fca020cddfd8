"""Mistakes in `pruning:`: by the text where it shows them, else by one batch of the stage, always before training."""

from __future__ import annotations

from typing import Any

import pytest

from tests.mistakes.good import ONE_STAGE, TEXT, Edit

LAST = "    optimizer: {type: AdamW, params: {lr: 1e-3}}\n"
BEFORE = "  - name: distill\n"
EARLIER = """\
  - name: teach
    epochs: 1
    train: [teacher]
    losses: {ce: {type: cross_entropy, inputs: {input: teacher}}}
    optimizer: {type: SGD, params: {lr: 0.1}}
"""
BOTH: Edit = ("train: [student]", "train: [student, teacher]")


def pruning(text: str) -> list[Edit]:
    """Return an edit that adds `pruning:` to the stage, which has 3 steps."""
    return [(LAST, f"{LAST}    pruning: {text}\n")]


BY_TEXT: dict[str, tuple[list[Edit], list[str]]] = {
    "no mapping": (pruning("§0.8"), ["'pruning' must be a mapping or a list, found 0.8"]),
    "an empty list": (pruning("§[]"), ["'pruning' must not be empty"]),
    "an unknown key": (
        pruning("{target_sparsity: 0.5, §sparsty: 0.5}"),
        [r"unknown key 'sparsty'\n    keys|unknown key 'sparsty'\n    did you mean"],
    ),
    "an unknown key of the schedule": (
        pruning("{target_sparsity: 0.5, schedule: {§evry: 2}}"),
        [r"unknown key 'evry'\n    did you mean 'every'\?"],
    ),
    # criterion
    "an unknown criterion": (
        pruning("{criterion: §magnitde, target_sparsity: 0.5}"),
        [
            r"stages.distill.pruning.criterion.type: unknown pruning criterion 'magnitde'\n    did you mean 'magnitude'\?"
        ],
    ),
    "a loss for a criterion": (
        pruning("{criterion: §cross_entropy, target_sparsity: 0.5}"),
        ["unknown pruning criterion 'cross_entropy'", "'cross_entropy' is a loss"],
    ),
    "a param of the criterion out of range": (
        pruning("{criterion: {type: snip_momentum, params: {alpha: §-1}}, target_sparsity: 0.5}"),
        [r"'alpha' of pruning criterion 'snip_momentum' \(kd-plugin-pruning .* must be "],
    ),
    "a param that the criterion has not": (
        pruning("{criterion: {type: magnitude, params: {§alpha: 1}}, target_sparsity: 0.5}"),
        ["unknown parameter 'alpha' of pruning criterion 'magnitude'"],
    ),
    "a criterion of losses": (
        [*pruning("{target_sparsity: 0.5}"), ("ce: cross_entropy", "ce: {type: cross_entropy, §criterion: magnitude}")],
        ["unknown key 'criterion'\n    losses go under losses:; a criterion scores weights for pruning:"],
    ),
    "a number for a criterion": (pruning("{criterion: §3, target_sparsity: 0.5}"), ["'criterion' must be text"]),
    # sparsity
    "no target": (pruning("§{criterion: magnitude}"), ["missing key 'target_sparsity'"]),
    "a target of 1": (pruning("{target_sparsity: §1.0}"), ["'target_sparsity' must be less than 1, found 1"]),
    "a target in percent": (pruning("{target_sparsity: §80}"), ["'target_sparsity' must be less than 1, found 80"]),
    "a negative target": (pruning("{target_sparsity: §-0.1}"), ["'target_sparsity' must be at least 0"]),
    "a target above the default maximum": (
        pruning("{target_sparsity: §0.99}"),
        ["target_sparsity 0.99 cannot be reached with max_sparsity 0.98 per layer; at most 0.98 can"],
    ),
    "a target above the maximum": (
        pruning("{target_sparsity: §0.8, max_sparsity: 0.5}"),
        ["target_sparsity 0.8 cannot be reached with max_sparsity 0.5 per layer; at most 0.5 can"],
    ),
    "a minimum above the maximum": (
        pruning("{target_sparsity: 0.4, min_sparsity: §0.6, max_sparsity: 0.5}"),
        ["min_sparsity 0.6 is above max_sparsity 0.5"],
    ),
    "a minimum above the target": (
        pruning("{target_sparsity: 0.4, min_sparsity: §0.6}"),
        ["min_sparsity 0.6 of every layer is above target_sparsity 0.4 of all"],
    ),
    # pattern
    "N:M beyond N/M": (
        pruning("{pattern: 2:4, target_sparsity: §0.75}"),
        ["2:4 prunes 2 of every 4 weights, so at most 0.5 of a layer; found target_sparsity 0.75"],
    ),
    "N:M that leaves nothing": (pruning("{pattern: §4:4, target_sparsity: 0.5}"), ["pattern '4:4'", "less than M"]),
    "a malformed pattern": (
        pruning("{pattern: §4*1, target_sparsity: 0.5}"),
        [r"unknown pattern '4\*1'; did you mean '4x1'"],
    ),
    "a misspelt pattern": (
        pruning("{pattern: §filters, target_sparsity: 0.5}"),
        ["unknown pattern 'filters'; did you mean 'filter'"],
    ),
    "a pattern of zeros": (pruning("{pattern: §0x4, target_sparsity: 0.5}"), ["both numbers must be at least 1"]),
    "a number for a pattern": (pruning("{pattern: §4, target_sparsity: 0.5}"), ["'pattern' must be text, found 4"]),
    # schedule
    "an end before the start": (
        pruning("{target_sparsity: 0.5, schedule: {start: 9, end: §5}}"),
        ["the schedule ends at 5, before its start at 9"],
    ),
    "a window with one pruning": (
        pruning("{target_sparsity: 0.5, schedule: {start: 0, end: §5, every: 6}}"),
        ["from 0 to 5 there is no second pruning with every: 6, and the first of a cubic schedule removes nothing"],
    ),
    "a frequency below 1": (
        pruning("{target_sparsity: 0.5, schedule: {every: §0}}"),
        ["'every' must be at least 1, found 0"],
    ),
    "an unknown schedule": (
        pruning("{target_sparsity: 0.5, schedule: §cubik}"),
        ["'schedule' must be .*'cubic'.*found 'cubik' .*\n    did you mean 'cubic'"],
    ),
    "an unknown type of a schedule": (
        pruning("{target_sparsity: 0.5, schedule: {type: §exp}}"),
        ["'type' must be one of .*found 'exp'"],
    ),
    "one shot with an end": (
        pruning("{target_sparsity: 0.5, schedule: {type: one_shot, end: §5}}"),
        ["a one_shot schedule has a start only, no 'end'"],
    ),
    "an unknown unit": (
        pruning("{target_sparsity: 0.5, schedule: {unit: §epochs}}"),
        ["'unit' must be one of 'step' or 'epoch', found 'epochs' .*\n    did you mean 'epoch'"],
    ),
    # what is trained
    "a model that is not trained": (
        pruning("{model: §teacher, target_sparsity: 0.5}"),
        ["the stage does not train the model 'teacher', so it cannot prune it\n    it trains student"],
    ),
    "a model that there is not": (
        pruning("{model: §studnt, target_sparsity: 0.5}"),
        [r"the stage does not train the model 'studnt', .*\n    did you mean 'student'\?"],
    ),
    "one of two models": (
        [*pruning("§{target_sparsity: 0.5}"), BOTH],
        ["pruning: does not say which of the trained models it is for\n    write model: student or teacher"],
    ),
    "weights that are split": (
        [*pruning("§{target_sparsity: 0.5}"), ("name: tiny\n", "name: tiny\ndistributed: {strategy: fsdp}\n")],
        ["stage 'distill' prunes, which needs whole weights and gradients, and strategy: fsdp splits them"],
    ),
    # everything at once
    "many mistakes": (
        pruning(
            "[{criterion: §magnitde, pattern: §4y1, target_sparsity: §0.99, schedule: {start: 4, end: §2, every: §0}}, "
            "{target_sparsity: §7, min_sparsity: §0.5, max_sparsity: 0.4, §inclde: [fc], reduce: §avg, model: §teacher}]"
        ),
        ["10 errors in the config", "stages.distill.pruning.1.target_sparsity"],
    ),
}

BY_REHEARSAL: dict[str, tuple[list[Edit], list[str]]] = {
    "a pattern of names that matches nothing": (
        pruning("{target_sparsity: 0.5, include: §[student.blok*]}"),
        [
            r"pruning.include: include: 'student.blok\*' matches no module\n    (did you mean|known modules: ).*block1.conv"
        ],
    ),
    "an exclusion that matches nothing": (
        pruning("{target_sparsity: 0.5, exclude: §[blok1.conv]}"),
        [r"pruning.exclude: exclude: 'blok1.conv' matches no module\n    did you mean 'block1.conv'"],
    ),
    "a pattern that fits no layer": (
        pruning("{pattern: §32x1, target_sparsity: 0.5}"),
        [
            r"no layer is left to prune by pattern 32x1: block1.conv \(32x1 does not fit: 2 outputs are no multiple of 32\)"
        ],
    ),
    "heads of a network that has none": (pruning("{pattern: §head, target_sparsity: 0.5}"), ["no attention"]),
    "layers of a type that it has not": (
        pruning("{target_sparsity: 0.5, layers: §[Conv1d]}"),
        ["there are no layers of type Conv1d"],
    ),
    "nothing but what makes the output": (
        pruning("§{target_sparsity: 0.5, include: [fc]}"),
        [r"no layer is left to prune by pattern 1x1: fc \(makes the model's output\)"],
    ),
    "frozen parameters": (
        [(LAST, f"{LAST}    freeze: [student.block1]\n    pruning: §{{target_sparsity: 0.5}}\n")],
        ["block1.conv is frozen"],
    ),
    "a schedule longer than the training": (
        pruning("{target_sparsity: 0.5, schedule: {end: §200}}"),
        [
            "the schedule ends at step 200, but there are only 3 steps\n    set end to 3 or less, train longer, or write end: auto"
        ],
    ),
    "a schedule of more epochs than there are": (
        pruning("{target_sparsity: 0.5, schedule: {end: §4, unit: epoch}}"),
        [r"the schedule ends at epoch 4 \(step 12\), but there are only 3 steps\n    set end to 1 or less"],
    ),
    "a start after the training": (
        pruning("{target_sparsity: 0.5, schedule: {type: one_shot, start: §3}}"),
        ["the schedule starts at step 3, but there are only 3 steps"],
    ),
    "too short for its schedule": (
        pruning("{target_sparsity: 0.5, schedule: §{every: 50}}"),
        ["from step 0 to step 2 there is no second pruning with every: 50 steps"],
    ),
    "whole blocks that cannot make it": (
        pruning("{pattern: filter, target_sparsity: §0.95}"),
        ["target_sparsity 0.95 cannot be reached: with max_sparsity 0.98 and pattern filter", "come to 0.7 at most"],
    ),
    "a layer in two groups": (
        pruning("[{target_sparsity: 0.5}, §{pattern: 2x1, target_sparsity: 0.5, include: [block2.*]}]"),
        [
            "block2.conv is pruned by two groups, the first and the second\n    keep the groups apart with include and exclude"
        ],
    ),
    "blocks where weights are chosen": (
        pruning("{criterion: §snip_momentum_block, pattern: 1:3, target_sparsity: 0.3}"),
        ["snip_momentum_block.* scores whole blocks, but 1:3 chooses weights within each"],
    ),
}


@pytest.mark.parametrize("name", BY_TEXT)
def test_a_mistake_that_the_text_shows(refusal: Any, name: str) -> None:
    edits, messages = BY_TEXT[name]
    refusal.by_text(refusal.write(ONE_STAGE, *edits), *messages)


@pytest.mark.parametrize("name", BY_REHEARSAL)
def test_a_mistake_that_the_stage_shows(refusal: Any, name: str) -> None:
    edits, messages = BY_REHEARSAL[name]
    refusal.by_rehearsal(refusal.write(ONE_STAGE, *edits), *messages)


def test_a_mistake_in_the_last_stage_shows_before_the_first_trains(refusal: Any) -> None:
    edits = [*pruning("{target_sparsity: 0.5, include: §[student.blok1]}"), (BEFORE, EARLIER + BEFORE)]
    refusal.by_rehearsal(refusal.write(ONE_STAGE, *edits), "'student.blok1' matches no module")


def test_a_criterion_whose_package_is_missing(refusal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCORE_DISABLE_PLUGINS", "kd-plugin-pruning")
    wrong = refusal.write(ONE_STAGE, *pruning("{criterion: §snip, target_sparsity: 0.5}"))
    refusal.by_text(wrong, "unknown pruning criterion 'snip'", "kd-plugin-pruning")


def test_the_heads_of_a_transformer_that_are_not_there(refusal: Any) -> None:
    edits = pruning("{pattern: §head, target_sparsity: 0.5}")
    refusal.by_rehearsal(refusal.write(TEXT, *edits), "no attention")


@pytest.mark.parametrize(
    "text",
    [
        "{target_sparsity: 0.5}",
        "{target_sparsity: 0.5, schedule: one_shot}",
        "{schedule: locked}",
        "[{pattern: 2x1, target_sparsity: 0.5, include: [student.block1]}, {target_sparsity: 0.5, exclude: [block1]}]",
    ],
)
def test_without_a_mistake_it_works(refusal: Any, text: str) -> None:
    right = refusal.write(ONE_STAGE, *pruning(text))
    for arguments in (("validate", right.file), ("validate", right.file, "--dry-run"), ("run", right.file, "--quiet")):
        called = refusal.call(*arguments)
        assert called.code == 0, called.err
