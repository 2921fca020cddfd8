"""Whatever stands in a config, the answer is a config or a message, never another exception."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdcore.config.config import Config
from kdcore.config.load import load_config
from kdcore.config.reader import read_text
from kdcore.errors import AddressError, ConfigError, WiringError
from kdcore.pipeline.build import build_objective
from kdcore.plugins import Registry
from tests.mistakes.good import TEXT, TWO_STAGES
from tests.pipeline.toys import DictNet, Net, make_batch
from tests.pipeline.toys import registry as toy_registry

Path = tuple[str | int, ...]


def bounded(examples: int) -> settings:
    """Return the settings of a test: so many examples, the same ones each time."""
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None)


EVERYTHING = """\
    title: all of it
    steps_per_epoch: 2
    freeze: [student.block1]
    start: {student: initial}
    data: {train: train, val: val, test: null}
    wrapper: simple
    balancer: {type: schedule, params: {schedules: {kd: {kind: linear, start: 0, end: 1}}}}
    scheduler:
      type: SequentialLR
      params: {schedulers: [ConstantLR, {type: StepLR, params: {step_size: 1}}], milestones: [1]}
    clip_grad_norm: 1.0
    accumulate: 2
    precision: bfloat16
    metrics: {models: [student], kinds: [accuracy, {type: top_k, k: 3}], target: batch:target}
    best: {metric: val/student/top_3}
    early_stop: {metric: val/loss, patience: 2, min_delta: 0.1}
"""
GOOD = [
    read_text(text).data
    for text in (TWO_STAGES, TEXT, TWO_STAGES.replace("    best: {metric: val/student/accuracy}\n", EVERYTHING))
]

JUNK = st.one_of(
    st.sampled_from(
        [None, True, False, 0, 1, -1, 10**30, 1e-300, 0.5, "", " ", "student", "teacher:block1", "batch:target", "kd",
         "batch", "auto", "val/loss", "1e-3", "yes", "${env:HOME}", "${", "*", "a.b", "\x00", "\U0001f600", "initial",
         "val/student/top_3", [], {}, [[]], [None], [{}], {"type": None}, {"type": "kd"}, {"type": "pairs"}, {"": ""},
         {"value": {}}, {"params": []}, {"type": ["kd"]}, {"stage": 3}, ["student", "student"], {"type": "SGD"}]
    ),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)  # fmt: skip


def paths(node: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every value."""
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from paths(value, (*path, key))


def at(node: Any, path: Path) -> Any:
    """Return the value at a path."""
    for key in path:
        node = node[key]
    return node


def mutate(data: Any, draw: st.DataObject) -> Any:
    """Delete, copy, rename, replace or swap something."""
    found = [path for path in paths(data) if path]
    if not found:
        return draw.draw(JUNK)
    path = draw.draw(st.sampled_from(found))
    holder, key = at(data, path[:-1]), path[-1]
    action = draw.draw(st.sampled_from(["delete", "replace", "swap", "copy", "rename"]))
    if action == "delete":
        del holder[key]
    elif action == "replace":
        holder[key] = draw.draw(JUNK)
    elif action == "swap":
        other = draw.draw(st.sampled_from(found))
        first, second = copy.deepcopy(at(data, path)), copy.deepcopy(at(data, other))
        holder[key] = second
        # The first may have lain around the second, which is then gone with it.
        if other[: len(path)] != path and path[: len(other)] != other:
            at(data, other[:-1])[other[-1]] = first
    elif isinstance(holder, list):
        holder.insert(0, copy.deepcopy(holder[key]))
    else:
        value = copy.deepcopy(holder[key]) if action == "copy" else holder.pop(key)
        holder[draw.draw(st.one_of(st.text(max_size=6), st.sampled_from(["student", "type", "params", "batch"])))] = (
            value
        )
    return data


@pytest.fixture(scope="module")
def registry() -> Registry:
    """Return all that is installed, discovered once."""
    return Registry.discover()


def outcome(text: str, registry: Registry, **options: Any) -> Config | ConfigError:
    """Return the config, or the only error that may come instead."""
    try:
        return load_config(text, plugins=registry, **options)
    except ConfigError as refused:
        error = refused
    assert error.problems
    assert all(problem.what for problem in error.problems)
    assert f"{len(error.problems)} error" in str(error)
    return error


@bounded(200)
@given(data=st.data())
def test_a_mutated_config_is_refused_with_messages(registry: Registry, data: st.DataObject) -> None:
    node = copy.deepcopy(data.draw(st.sampled_from(GOOD)))
    for _ in range(data.draw(st.integers(1, 4))):
        node = mutate(node, data)
    external = data.draw(st.sampled_from([None, (), ("student", "teacher")]))
    outcome(json.dumps(node) + "\n", registry, external_models=external)


@bounded(200)
@given(data=st.data())
def test_a_mutated_text_is_refused_with_messages(registry: Registry, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([TWO_STAGES, TEXT]))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 40)))
        piece = data.draw(
            st.one_of(st.text(max_size=5), st.sampled_from([*"{}[]:,#&*!|>%@`'\"-\n\t ", "<<: ", "---\n"]))
        )
        text = text[:start] + piece + text[end:]
    outcome(text + "\n", registry)


def test_the_good_configs_are_good(registry: Registry) -> None:
    """Else no mutation of them would reach the deeper checks."""
    for node in GOOD:
        assert isinstance(outcome(json.dumps(node) + "\n", registry), Config)


PIECES = ["student", "teacher", "proj", "batch", "block2", "linear", "input", "target", ":", ".", "@input", "@module",
          "@raw", "@", "@0", "@-1", "@9", "#0", "#-1", "#hidden", "#x", "#", "*", " "]  # fmt: skip
PATHS = {
    "student": ["", "", ":body", ":head", ":hed"],
    "teacher": ["", "", ":block1", ":block1.1", ":relu", ":fc", ":unused", ":blok2"],
    "proj": ["", "", ":linear", ":liner"],
    "batch": [":input", ":target", ":index", ":label"],
}
MARKS = ["", "", "", "@input", "@module", "@raw", "@0", "@1", "@-1", "@input@0"]
KEYS = ["", "", "", "#0", "#1", "#hidden", "#hidden#0", "#aux", "#0#0", "#shape", "#x"]


def addresses(*names: str) -> st.SearchStrategy[str]:
    """Return addresses that mean something, or nearly, and a few that mean nothing."""
    likely = st.sampled_from(names).flatmap(
        lambda name: st.tuples(
            st.just(name),
            st.sampled_from(PATHS[name]),
            st.just("") if name == "batch" else st.sampled_from(MARKS),
            st.sampled_from(KEYS),
        ).map("".join)
    )
    junk = st.one_of(st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join), st.text(max_size=12))
    return st.one_of(likely, likely, likely, likely, junk)


@pytest.fixture(scope="module")
def toys() -> Registry:
    """Return small components, registered once."""
    return toy_registry()


@bounded(150)
@pytest.mark.filterwarnings("ignore:Using a target size")
@given(
    first=addresses("student", "proj"),
    second=addresses("student", "teacher", "batch"),
    fed=addresses("student"),
    like=addresses("student", "teacher", "batch"),
)
def test_any_address_is_read_or_refused(toys: Registry, first: str, second: str, fed: str, like: str) -> None:
    data = {
        "version": 1,
        "models": {"teacher": {}, "student": {}},
        "adapters": {"proj": {"type": "projector", "inputs": {"x": fed}, "like": like, "weights": "as_built"}},
        "stages": [
            {
                "name": "only",
                "train": ["student"],
                "losses": {"l": {"type": "mse", "inputs": {"input": first, "target": second}}},
            }
        ],
    }
    models: dict[str, nn.Module] = {"teacher": Net(), "student": DictNet()}
    try:
        config = load_config(json.dumps(data) + "\n", external_models=models, plugins=toys)
        objective = build_objective(config, models=models, example_batch=make_batch())
    except ConfigError:
        return
    except (AddressError, WiringError) as refused:
        error = refused
    else:
        assert torch.isfinite(objective(make_batch()).total)
        return
    assert "<config>:1:" in str(error)
