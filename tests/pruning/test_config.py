"""Everything that is wrong with a group before there is a model, in the config's words."""

import subprocess
import sys

import pytest

from kdcore.errors import ConfigError, Place
from kdcore.pruning import Pattern, PatternError, PruningGroup, group_mistakes

GROUP = {"target_sparsity": 0.5}


@pytest.mark.parametrize(
    ("written", "path", "message"),
    [
        ({}, "target_sparsity", "missing key 'target_sparsity'"),
        ({"target_sparsity": 1}, "target_sparsity", "a number from 0 to below 1, found 1"),
        ({"target_sparsity": -0.1}, "target_sparsity", "a number from 0 to below 1, found -0.1"),
        ({"target_sparsity": "80%"}, "target_sparsity", "a number from 0 to below 1, found '80%'"),
        ({"target_sparsity": float("nan")}, "target_sparsity", "found nan"),
        ({"target_sparsity": True}, "target_sparsity", "found True"),
        ({**GROUP, "targt": 1}, "targt", r"unknown key 'targt'\s*did you mean 'target_sparsity'"),
        ({**GROUP, "pattern": "4by1"}, "pattern", "unknown pattern '4by1'"),
        ({**GROUP, "pattern": "filtr"}, "pattern", "did you mean 'filter'"),
        ({**GROUP, "pattern": "0x4"}, "pattern", "both numbers must be at least 1"),
        ({**GROUP, "pattern": "4:2"}, "pattern", "of each 2 weights 4 would go"),
        (
            {"target_sparsity": 0.6, "pattern": "2:4"},
            "target_sparsity",
            "2:4 prunes 2 of every 4 weights, so at most 0.5",
        ),
        (
            {"target_sparsity": 0.99},
            "target_sparsity",
            "0.99 cannot be reached with max_sparsity 0.98 per layer; at most 0.98",
        ),
        (
            {**GROUP, "min_sparsity": 0.6},
            "min_sparsity",
            "min_sparsity 0.6 of every layer is above target_sparsity 0.5",
        ),
        ({**GROUP, "min_sparsity": 0.9, "max_sparsity": 0.8}, "min_sparsity", "0.9 is above max_sparsity 0.8"),
        ({**GROUP, "reduce": "median"}, "reduce", "mean, sum or max, found 'median'"),
        ({**GROUP, "scope": "globl"}, "scope", "did you mean 'global'"),
        ({**GROUP, "masks": "fixed"}, "masks", "recomputed or frozen"),
        ({**GROUP, "dtype": "float16"}, "dtype", "float32 or weights"),
        ({**GROUP, "include": 3}, "include", "a list of names, found 3"),
        ({**GROUP, "layers": []}, "layers", "must not be empty"),
        ({**GROUP, "prune_classifier": "no"}, "prune_classifier", "true or false, found 'no'"),
        ({**GROUP, "group_lasso": -1}, "group_lasso", "a number at least 0"),
        ({**GROUP, "criterion": {"params": {}}}, "criterion", "missing key 'type'"),
        ({**GROUP, "criterion": {"type": "snip", "parms": {}}}, "criterion.parms", "did you mean 'params'"),
        ({**GROUP, "criterion": 3}, "criterion", "name of a pruning criterion, found 3"),
        ({**GROUP, "schedule": "cube"}, "schedule.type", "did you mean 'cubic'"),
        ({**GROUP, "schedule": {"start": 20, "end": 10}}, "schedule.end", "ends at 10, before its start at 20"),
        ({**GROUP, "schedule": {"end": 5, "every": 10}}, "schedule.end", "no second pruning with every: 10"),
        ({**GROUP, "schedule": {"every": 0}}, "schedule.every", "whole number of at least 1, found 0"),
        ({**GROUP, "schedule": {"end": "later"}}, "schedule.end", "at least 0 or auto, found 'later'"),
        ({**GROUP, "schedule": {"type": "one_shot", "end": 9}}, "schedule.end", "one_shot schedule has a start only"),
        ({**GROUP, "schedule": {"units": "epoch"}}, "schedule.units", "did you mean 'unit'"),
    ],
)
def test_mistakes(written, path, message):
    with pytest.raises(ConfigError, match=message) as caught:
        PruningGroup.from_mapping(written, Place("stages.0.pruning", "cfg.yaml", 3, 5))
    (problem,) = caught.value.problems
    assert str(problem.place) == f"cfg.yaml:3:5: stages.0.pruning.{path}"


def test_several_mistakes_are_all_found():
    assert len(group_mistakes({"target_sparsity": 2, "pattern": "x", "schedule": {"start": -1, "unit": "day"}})) == 4


def test_places_of_keys_are_used():
    places = {"schedule.end": Place("pruning.schedule.end", "cfg.yaml", 9, 7)}
    with pytest.raises(ConfigError, match=r"cfg\.yaml:9:7: pruning\.schedule\.end: the schedule ends at 1"):
        PruningGroup.from_mapping(
            {**GROUP, "schedule": {"start": 2, "end": 1}}, Place("pruning", "cfg.yaml", 1, 1), places
        )


def test_what_is_read():
    group = PruningGroup.from_mapping(
        {
            "model": "student",
            "criterion": {"type": "snip_momentum", "params": {"alpha": 0.5}},
            "pattern": "8x2",
            "target_sparsity": 0.7,
            "include": "block1",
            "layers": ["Conv2d"],
            "schedule": {"type": "exponential", "end": 50},
        }
    )
    assert (group.criterion, group.params) == ("snip_momentum", {"alpha": 0.5})
    assert (group.pattern.rows, group.pattern.columns) == (8, 2)
    assert (group.include, group.layers) == (("block1",), ("Conv2d",))
    assert (group.schedule.type, group.schedule.end, group.schedule.unit) == ("exponential", 50, "step")


def test_a_locked_schedule_needs_no_target():
    assert PruningGroup.from_mapping({"schedule": "locked"}).locked


@pytest.mark.parametrize(
    ("name", "most"), [("4x1", 1), ("1:4", 0.25), ("2:4", 0.5), ("filter", 1), ("1xchannel", 1), ("channelx1", 1)]
)
def test_patterns(name, most):
    assert Pattern.parse(name).most == most
    assert str(Pattern.parse(f" {name} ")) == name
    with pytest.raises(PatternError):
        Pattern.parse(name + "x")


def test_reading_a_group_imports_no_torch():
    code = "import sys, kdcore.pruning.schedule, kdcore.pruning as p; p.PruningGroup.from_mapping({'target_sparsity': 0.5}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
