"""Mistakes that a config's text shows: seen without torch, every one with its position, before anything is built."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.mistakes.good import TEXT, TWO_STAGES, Edit

KD = "kd: {type: kd, params: {temperature: 4}}"
NEAR = "near: {type: mse, inputs: {input: proj, target: teacher:block1}}"
TRAIN = "{type: digits, params: {split: train, samples_per_class: 4}, batch_size: 16}"
PROJ = "  proj: {type: conv1x1, inputs: {x: student:block1}, like: teacher:block1}\n"
SGD = "{type: SGD, params: {lr: 0.1}}"
BEST = "    best: {metric: val/student/accuracy}\n"
VAL = "  val: {type: digits, params: {split: val, samples_per_class: 2}, batch_size: 32}\n"
STUDENT = "  student: {type: digits_cnn, params: {width: 2, depth: 2}}\n"


def stage(line: str) -> Edit:
    """Return an edit that adds a line to the last stage."""
    return BEST, f"{BEST}    {line}\n"


CASES: dict[str, tuple[list[Edit], list[str]]] = {
    # names of methods, keys and params
    "unknown loss": ([("type: kd,", "type: §kdd,")], [r"unknown loss 'kdd'\n    did you mean 'kd'"]),
    "loss that no plugin has": (
        [("type: kd,", "type: §no_such_method,")],
        ["unknown loss 'no_such_method'", "known loss names: ", "pip install kd-plugin-no-such-method"],
    ),
    "loss where a wrapper stands": (
        [(KD, "kd: {type: kd, wrapper: §at}")],
        ["unknown wrapper 'at'\n    'at' is a loss; known wrapper names: .*pairs"],
    ),
    "unknown model": ([("teacher: {type: digits_cnn", "teacher: {type: §digit_cnn")], ["did you mean 'digits_cnn'"]),
    "data set not in the registry": (
        [("train: {type: digits", "train: {type: §ImageFolder")],
        [r"1 error in the config\n", "unknown dataset 'ImageFolder'\n    known dataset names: .*digits"],
    ),
    "unknown adapter": ([("type: conv1x1", "type: §conv1x")], ["unknown adapter 'conv1x'\n    did you mean 'conv1x1'"]),
    "unknown output extractor": (
        [(STUDENT, STUDENT.replace("}}", "}, output: §logits}"))],
        ["unknown output extractor 'logits'\n    known output extractor names: auto, item, model_losses"],
    ),
    "unknown balancer": ([stage("balancer: §weighted_sums")], ["did you mean 'weighted_sum'"]),
    "unknown wrapper": (
        [(KD, "kd: {type: kd, wrapper: §pair}")],
        [r"unknown wrapper 'pair'\n    did you mean 'pairs'\?"],
    ),
    "unknown optimizer": (
        [(SGD, "{type: §sdg, params: {lr: 0.1}}")],
        ["unknown optimizer 'sdg'\n    did you mean 'SGD'", "optimizers of torch .*AdamW"],
    ),
    "unknown scheduler": (
        [stage("scheduler: §CosineAnealingLR")],
        ["unknown scheduler 'CosineAnealingLR'\n    did you mean 'CosineAnnealingLR'"],
    ),
    "unknown key of a loss": (
        [(KD, "kd: {type: kd, §tempreature: 4}")],
        ["unknown key 'tempreature'", "keys: enabled, inputs, params, type, weight, wrapper"],
    ),
    "unknown key of a stage": (
        [stage("§schedular: StepLR")],
        [r"unknown key 'schedular'\n    did you mean 'scheduler'\?"],
    ),
    "unknown key at the top": (
        [("seed: 0\n", "§sead: 0\n")],
        [r"unknown key 'sead'\n    did you mean 'seed' or 'search'\?"],
    ),
    "a key of another tool": (
        [(STUDENT, STUDENT.replace("}}", "}, §frozen_modules: [block1]}"))],
        ["unknown key 'frozen_modules'", "keys: cache, clone_captures, inputs, output"],
    ),
    "unknown param, which must not be ignored": (
        [(KD, "at: {type: at, inputs: {student: student:block2, teacher: teacher:block2}, params: {§modee: paper}}")],
        [r"unknown parameter 'modee' of loss 'at' \(kd-plugin-at .*\n    did you mean 'mode'\?"],
    ),
    "unknown param of a model": (
        [("params: {width: 4,", "params: {§widht: 4,")],
        [r"unknown parameter 'widht' of model 'digits_cnn' .*\n    did you mean 'width'\?"],
    ),
    "unknown param of an optimizer": (
        [(SGD, "{type: SGD, params: {lr: 0.1, §momemtum: 0.9}}")],
        [r"unknown parameter 'momemtum'\n    did you mean 'momentum'\?"],
    ),
    "a param beside params": (
        [(SGD, "{type: SGD, params: {lr: 0.1}, §momentum: 0.9}")],
        ["'momentum' is a parameter of SGD and stands beside params:\n    write params: {momentum: 0.9}"],
    ),
    "a param that is missing": (
        [stage("scheduler: {type: StepLR, params: §{gamma: 0.5}}")],
        ["missing parameter 'step_size'\n    add step_size: intervals"],
    ),
    "a criterion instead of losses": (
        [stage("§criterion: kd")],
        ["unknown key 'criterion'\n    losses go under losses:; a criterion scores weights for pruning:"],
    ),
    # types and ranges
    "text for a number": (
        [(SGD, '{type: SGD, params: {lr: §"1e-3"}}')],
        ["must be a number", r"write 0\.001, without"],
    ),
    "word for a number": ([("temperature: 4", "temperature: §hot")], [r"must be a number, found 'hot' \(text\)"]),
    "out of range": ([("temperature: 4", "temperature: §0")], ["must be more than 0, found 0"]),
    "a negative learning rate": ([(SGD, "{type: SGD, params: {lr: §-0.1}}")], ["'lr' must be at least 0, found -0.1"]),
    "not a number": ([(KD, "kd: {type: kd, weight: §.nan}")], [".nan is not a finite number"]),
    "a switch as a word": (
        [("batch_size: 16}", "batch_size: 16, shuffle: §yes}")],
        [r"'shuffle' must be true or false, found 'yes'.*\n    write true or false"],
    ),
    "a name for a list": (
        [("train: [student]\n", "train: §student\n")],
        [r"1 error in the config\n", r"'train' must be a list, found 'student' .*\n    write a list: \[student\]"],
    ),
    "null for a list": (
        [("train: [student]\n", "train:§\n")],
        [r"1 error in the config\n", r"'train' must be a list, found nothing \(null\)"],
    ),
    "null for a mapping": ([("losses:\n      ce: cross_entropy\n      " + KD, "losses: §null")], ["found nothing"]),
    "one option of several": (
        [("split: val", "split: §valid")],
        ["must be one of 'train', 'val' or 'test'", "did you mean 'val'"],
    ),
    "a whole number": ([("width: 2", "width: §2.5")], ["must be a whole number, found 2.5"]),
    "no losses": (
        [(f"    losses:\n      ce: cross_entropy\n      {KD}\n", ""), ("  - name: distill", "  - §name: distill")],
        ["missing key 'losses'"],
    ),
    # addresses
    "address of an unknown model": (
        [(NEAR, NEAR.replace("teacher:", "§teachr:"))],
        [r"address 'teachr:block1': there is no model or adapter 'teachr'\n    did you mean 'teacher'"],
    ),
    "address against the grammar": (
        [(NEAR, NEAR.replace("teacher:block1", '§"teacher:block1@output"'))],
        ["is not an address: '@output' is not @input, @module, @raw or a call number", r"the grammar is name\[:path\]"],
    ),
    "address with a pattern": (
        [(NEAR, NEAR.replace("teacher:block1", '§"teacher:block*"'))],
        [r"'\*' cannot stand in a path"],
    ),
    "batch without an entry": (
        [("ce: cross_entropy", "ce: {type: cross_entropy, inputs: {target: §batch}}")],
        ["as in batch:target"],
    ),
    "an input that the loss has not": (
        [(KD, "kd: {type: kd, inputs: {§techer: teacher}}")],
        [r"loss 'kd' .* has no input 'techer'\n    did you mean 'teacher'\?"],
    ),
    "an input that one more wrapper would add": (
        [(KD, "kd: {type: kta, wrapper: causal, inputs: {§mask: batch:mask}}")],
        [
            r"loss 'kta' .* has no input 'mask'\n    wrapper: \[causal, masked\] adds an input 'mask'; "
            "known inputs: student, teacher"
        ],
    ),
    "an input that a wrapper would add to a loss without one": (
        [(KD, "kd: {type: kta, inputs: {§mask: batch:mask}}")],
        ["\n    wrapper: masked adds an input 'mask'"],
    ),
    "an input that is bound to nothing": (
        [(NEAR, "near: §{type: mse, inputs: {input: proj}}")],
        [r"input 'target' of loss 'mse' .* is bound to nothing\n    write inputs: \{target: <address>\}"],
    ),
    "a list for one address": (
        [(NEAR, NEAR.replace("input: proj", "input: §[proj, student:block1]"))],
        ["takes one address, not a list\n    wrapper: pairs takes lists"],
    ),
    "an input of the model that is no list": (
        [(STUDENT, STUDENT.replace("}}", "}, inputs: §batch:input}"))],
        [r"'inputs' must be a list or a mapping, found 'batch:input'.*\n    write a list: \[batch:input\]"],
    ),
    "no teacher": (
        [
            ("  teacher: {type: digits_cnn, params: {width: 4, depth: 2}, weights: as_built}\n", ""),
            (PROJ, PROJ.replace("like: teacher", "like: §teacher")),
            (NEAR, NEAR.replace("teacher:block1", "§teacher:block1")),
            (KD, KD.replace("{type", "§{type")),
        ],
        ["there is no model or adapter 'teacher'", "'teacher' by default, but no model or adapter is so named"],
    ),
    # parts that do not fit together
    "lists of unequal length": (
        [(NEAR, "near: {type: mse, wrapper: §pairs, inputs: {input: [proj, proj], target: [teacher:block1]}}")],
        ["the lists of pairs differ in length: input has 2, target has 1"],
    ),
    "weights for more pairs than there are": (
        [
            (
                NEAR,
                "near: {type: mse, wrapper: {type: pairs, params: {weights: §[1, 2]}}, "
                "inputs: {input: [proj], target: [teacher:block1]}}",
            )
        ],
        ["weights has 2 entries but there are 1 pairs"],
    ),
    "static weights above one": (
        [stage("balancer: {type: static, params: {kd_loss_weight: §[0.7, 0.7]}}")],
        [r"static.*kd_loss_weight"],
    ),
    "static weight that is negative": (
        [stage("balancer: {type: static, params: {kd_loss_weight: §[-0.5, 1.0]}}")],
        ["every kd_loss_weight must lie between 0 and 1, found -0.5|must be at least 0, found -0.5"],
    ),
    "static weights without a task": (
        [stage("balancer: {type: static, params: §{kd_loss_weight: [0.3, 0.3]}}")],
        [r"kd_loss_weight sums to 0\.6 and no term gets the other 0\.4: name the task term"],
    ),
    "static task term that does not exist": (
        [stage("balancer: {type: static, params: {kd_loss_weight: 0.3, task_term: §cee}}")],
        ["there is no term 'cee': did you mean 'ce'"],
    ),
    "a curve without a kind": (
        [stage("balancer: {type: schedule, params: {schedules: {kd: §{start: 0, end: 1}}}}")],
        [r"1 error in the config\n", "missing parameter 'kind' of balancer 'schedule'"],
    ),
    "every term disabled": (
        [
            (NEAR, "near: {type: mse, enabled: false, inputs: {input: proj, target: teacher:block1}}"),
            ("    losses:\n      near", "    losses:\n      §near"),
        ],
        ["every term of the stage is disabled"],
    ),
    "training what no loss looks at": (
        [("train: [student]\n", "train: [student, §proj]\n")],
        ["stage 'distill' trains 'proj', but no loss looks at it\n    bind a loss's input to it, or take it out"],
    ),
    "training what does not exist": (
        [("train: [student]\n", "train: [§studnt]\n")],
        [r"1 error in the config\n", "no model or adapter 'studnt' to train\n    did you mean 'student'"],
    ),
    "an adapter fed by itself": (
        [("x: student:block1", "x: proj"), ("  proj: {", "  proj: §{")],
        ["'proj' waits for its own output"],
    ),
    "an adapter like itself": (
        [("like: teacher:block1", "like: proj"), ("  proj: {", "  proj: §{")],
        ["waits for its own output"],
    ),
    "adapters in a circle": (
        [
            (
                PROJ,
                PROJ.replace("{x: student:block1}", "{x: back}").replace("{type", "{type", 1)
                + "  back: §{type: conv1x1, inputs: {x: proj}, like: student:block1}\n",
            )
        ],
        ["these wait for each other's outputs: back, proj\n    break the cycle"],
    ),
    "a model and an adapter with one name": (
        [(PROJ, PROJ.replace("proj:", "§student:"))],
        ["'student' is already the name of a model"],
    ),
    "two stages with one name": (
        [("name: distill", "name: §hint")],
        ["stage name 'hint': another stage has this name\n    rename the stage"],
    ),
    "start from a stage that does not exist": (
        [stage("start: {student: §hitn}")],
        [r"there is no earlier stage 'hitn'\n    did you mean 'hint'"],
    ),
    "data that does not exist": (
        [stage("data: {train: §trian}")],
        ["no entry 'trian' under data:\n    did you mean 'train'"],
    ),
    "no data": (
        [("  train: " + TRAIN + "\n", ""), ("  - name: hint", "  - §name: hint")],
        ["no entry 'train' under data:"],
    ),
    # what decides on epochs
    "best by a metric that does not exist": (
        [("metric: val/student/accuracy", "metric: §val/student/acuracy")],
        ["this stage has no metric 'val/student/acuracy'\n    did you mean 'val/student/accuracy'"],
    ),
    "best by the test split": (
        [("metric: val/student/accuracy", "metric: §test/student/accuracy")],
        ["'test/student/accuracy' would select on the test split\n    choose a metric of val/"],
    ),
    "best by validation data that is missing": (
        [(VAL, ""), ("metric: val/student/accuracy", "metric: §val/student/accuracy")],
        ["'val/student/accuracy' needs validation data\n    add an entry val to data:"],
    ),
    "best by a model that is not judged": (
        [(BEST, "    metrics: {models: []}\n    best: {metric: §val/student/accuracy}\n")],
        ["this stage has no metric 'val/student/accuracy'\n    known metrics: train/loss, "],
    ),
    "early stop by a metric that does not exist": (
        [stage("early_stop: {metric: §val/losses/kdd, patience: 2}")],
        [r"no metric 'val/losses/kdd'\n    did you mean 'val/losses/kd'"],
    ),
    "scheduler that monitors nothing": (
        [stage("scheduler: {type: ReduceLROnPlateau, params: {monitor: §val/los}}")],
        [r"no metric 'val/los'\n    did you mean 'val/loss'"],
    ),
    "milestones that do not fit": (
        [stage("scheduler: {type: SequentialLR, params: {schedulers: [ConstantLR, ConstantLR], milestones: §[1, 2]}}")],
        ["2 schedulers need 1 milestones, not 2"],
    ),
    # loaders
    "two orders": (
        [("batch_size: 16}", "batch_size: 16, shuffle: true, sampler: §balanced}")],
        ["both choose the order"],
    ),
    "prefetching without workers": (
        [("batch_size: 16}", "batch_size: 16, prefetch_factor: §2}")],
        ["needs num_workers"],
    ),
    # weights
    "a misspelt key of weights": (
        [("weights: as_built", "weights: {§fiel: teacher.pt}")],
        [r"unknown key 'fiel'\n    did you mean 'file'\?", "missing key 'file'"],
    ),
    # YAML
    "a key twice": ([("device: cpu\n", "device: cpu\n§device: cuda\n")], ["the key 'device' stands twice"]),
    "code in a config": (
        [(SGD, '{type: SGD, params: {lr: §!!python/object/apply:os.system ["true"]}}')],
        ["the tag !!python/object/apply:os.system is not allowed here: a config is data"],
    ),
    "an address cut by a comment": (
        [
            (
                NEAR,
                "near:\n        type: mse\n        inputs:\n          input: proj\n          target: §teacher:block1 #0",
            )
        ],
        [
            "a ' #' starts a comment, so the address is cut to 'teacher:block1'\n    write teacher:block1#0 without the space"
        ],
    ),
    "a bracket that is never closed": (
        [("train: [student]\n", "train: [student\n")],
        [r"kd.yaml:\d+:\d+: .*never closed"],
    ),
    "a tab": (
        [("    epochs: 1\n    train: [student]", "§\tepochs: 1\n    train: [student]")],
        ["a tab where YAML wants spaces"],
    ),
    "an unset variable": ([("output_dir: runs", "output_dir: §${env:KDCORE_NO_SUCH}")], ["KDCORE_NO_SUCH is not set"]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_in_the_text(refusal: Any, name: str) -> None:
    edits, messages = CASES[name]
    refusal.by_text(refusal.write(TWO_STAGES.replace("device: cpu\n", "device: cpu\nseed: 0\n"), *edits), *messages)


def test_a_mask_that_nothing_is_bound_to(refusal: Any) -> None:
    wrong = refusal.write(
        TEXT, ("kd: {type: kd, wrapper: masked, inputs: {mask: batch:mask}}", "kd: {type: kd, wrapper: §masked}")
    )
    refusal.by_text(
        wrong, r"masked has nothing to drop positions by: bind its input mask \(inputs: \{mask: batch:mask\}\)"
    )


def test_ten_mistakes_are_ten_errors(refusal: Any) -> None:
    wrong = refusal.write(
        TWO_STAGES,
        ("version: 1", "version: §2"),
        ("split: train", "split: §training"),
        ("batch_size: 32", "batch_size: §0"),
        ("{width: 4,", "{§widht: 4,"),
        ("type: conv1x1", "type: §conv1x"),
        ("input: proj", "§inputt: proj"),
        (SGD, "{type: SGD, params: {§learning_rate: 0.1}}"),
        ("train: [student]\n", "train: [§studnt]\n"),
        ("temperature: 4", "temperature: §-4"),
        ("val/student/accuracy", "§val/student/acc"),
    )
    err = refusal.by_text(wrong, "did you mean 'student'", "did you mean 'conv1x1'", "did you mean 'input'")
    places = [line for line in err.split("\n") if line.startswith(str(wrong.file))]
    # One more: without 'inputt' the input is bound to nothing.
    assert f"kd: {len(places)} errors in the config" in err
    assert len(places) == len(wrong.positions) + 1 == 11
    lines = [int(place.removeprefix(f"{wrong.file}:").split(":")[0]) for place in places]
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.distil.epochs=3", r"'stages' has no item 'distil'\n    did you mean 'distill'"),
        ("stages.7.epochs=3", "'stages' has no item 7\n    it has items 0 to 1"),
        ("models.student.params.width=wide", r"must be a whole number, found 'wide' \(text\)"),
        ("models.student.param.width=3", r"unknown key 'param'\n    did you mean 'params'|has no (key|item) 'param'"),
        ("stages.distill.losses.kd=null", "'kd' must be text or a mapping, found nothing"),
        ("stages.distill.epochs", "this is not an assignment\n    write path=value"),
        ("sead=3", r"unknown key 'sead'\n    did you mean 'seed'"),
        ("name=../elsewhere", r"'name' must match the pattern"),
    ],
)
def test_an_override_is_checked_like_the_file(refusal: Any, override: str, message: str) -> None:
    file = refusal.write(TWO_STAGES).file
    for command in ("validate", "run"):
        called = refusal.call(command, file, "--set", override)
        assert called.code == 1
        assert f"--set {override}: " in called.err
        assert re.search(message, called.err), called.err
        assert "Traceback" not in called.err
    assert not (refusal.folder / "runs").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "kd.yaml:1:1: the config is empty"),
        (b"- a\n- b\n", "kd.yaml:1:1: the config is a list, not a mapping"),
        (b"\x80\x02}q\x00.", "kd.yaml:1:1: the byte 0x80 is not UTF-8 text"),
        ("name: caf\u00e9\n".encode("latin-1"), "kd.yaml:1:10: the byte 0xe9 is not UTF-8 text"),
        (b"version: 1\n---\nversion: 1\n", "kd.yaml:2:1: a second document begins here"),
        (b"version: *one\n", r"kd.yaml:1:10: \*one names no anchor"),
        (b"[" * 5000, r"kd.yaml:1:\d+: the config is nested more than"),
        (
            b"a: &a [1,1,1,1,1,1,1,1,1,1]\n"
            + b"".join(b"%c: &%c [%s]\n" % (name, name, b",".join([b"*%c" % (name - 1)] * 10)) for name in b"bcdefgh"),
            "kd.yaml:1:1: the config has more than 100000 values",
        ),
    ],
)
def test_a_file_that_is_no_config(refusal: Any, content: bytes, message: str) -> None:
    file = refusal.folder / "kd.yaml"
    file.write_bytes(content)
    called = refusal.call("validate", file)
    assert called.code == 1
    assert re.search(message, called.err), called.err
    assert "Traceback" not in called.err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kd.yml", r"kd.yml: there is no such file\n    did you mean 'kd.yaml'\?"),
        (".", ".: this is a folder, not a config file"),
    ],
)
def test_a_file_that_is_not_there(refusal: Any, name: str, message: str) -> None:
    refusal.write(TWO_STAGES)
    called = refusal.call("run", name)
    assert called.code == 1
    assert re.search(message, called.err), called.err
    assert "Traceback" not in called.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no plugin file 'mine.py'\n    --plugin takes the path of a .py file"),
        ("import no_such_module\n", "plugin file mine.py: it fails to load: ModuleNotFoundError: .*'no_such_module'"),
        ("def broken(:\n", "plugin file mine.py: it fails to load: SyntaxError: .*line 1"),
        ("raise SystemExit(0)\n", "plugin file mine.py: it fails to load: SystemExit"),
        ("import kdcore\nkdcore.register('los', 'x', dict)\n", "unknown kind 'los'"),
    ],
)
def test_a_plugin_file_that_cannot_be_used(refusal: Any, text: str | None, message: str) -> None:
    file = refusal.write(TWO_STAGES).file
    if text is not None:
        (refusal.folder / "mine.py").write_text(text)
    called = refusal.call("validate", file, "--plugin", "mine.py")
    assert called.code == 1
    assert re.search(message, called.err), called.err
    assert "Traceback" not in called.err
