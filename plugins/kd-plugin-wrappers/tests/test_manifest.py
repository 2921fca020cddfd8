import re

import pytest
from kd_plugin_wrappers import wrappers

from kdcore.component import CheckContext, Role

COMPONENTS = {component.name: component for component in wrappers()}


def complaints(name, params, **inputs):
    return [*COMPONENTS[name].check(params, CheckContext(inputs=inputs))]


def test_what_is_offered():
    assert list(COMPONENTS) == ["simple", "dict", "pairs", "masked", "causal"]
    assert [name for name, component in COMPONENTS.items() if component.takes_lists] == ["pairs"]
    mask = COMPONENTS["masked"].input("mask")
    assert (mask.required, mask.role, mask.default) == (False, Role.LABELS, None)


@pytest.mark.parametrize(
    ("params", "inputs", "message", "param"),
    [
        ({}, {"student": ["a", "b"], "teacher": ["c"]}, "student has 2, teacher has 1", None),
        ({}, {"student": "a", "teacher": "b"}, r"none is \(inputs: student, teacher\)", None),
        ({}, {"student": [], "teacher": []}, "are empty", None),
        ({"weights": [1, 2, 3]}, {"student": ["a", "b"], "teacher": "c"}, "3 entries but there are 2 pairs", "weights"),
        ({"weights": [float("nan")]}, {"student": ["a"]}, "must be finite numbers, found 0: nan", "weights"),
    ],
)
def test_pairs_that_do_not_fit_are_found_in_the_config(params, inputs, message, param):
    (complaint,) = complaints("pairs", params, **inputs)
    assert re.search(message, complaint.message)
    assert complaint.param == param


def test_pairs_that_fit():
    assert not complaints("pairs", {"weights": [1, 2]}, student=["a", "b"], teacher=["c", "d"], mask="e")
    assert not complaints("pairs", {"weights": None})


def test_weights_of_a_dict():
    (complaint,) = complaints("dict", {"weights": {"out": float("inf")}})
    assert complaint == ("weights must be finite numbers, found out: inf", "weights")
    assert not complaints("dict", {"weights": {"out": 0.5}})


def test_masked_needs_something_to_drop_by():
    (complaint,) = complaints("masked", {"ignore_index": None}, student="student")
    assert "bind its input mask" in complaint.message
    assert not complaints("masked", {"ignore_index": -100}, student="student")
    assert not complaints("masked", {}, student="student", mask="batch:mask")
    assert not complaints("masked", {})


def test_causal_refuses_modules():
    (complaint,) = complaints("causal", {}, hidden="student:norm", head="student:lm_head@module")
    assert "set causal: true in the params of the loss" in complaint.message
    assert not complaints("causal", {}, student=["student", "student:aux"])
