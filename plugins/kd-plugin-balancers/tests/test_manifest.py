import re

import pytest
from kd_plugin_balancers import balancers

from kdcore.component import CheckContext

COMPONENTS = {component.name: component for component in balancers()}
TERMS = {"kd": 1.0, "at": 1.0, "ce": 1.0}
HALF = {"kind": "linear", "start": 1.0, "end": 0.0}


def complaints(name, params, terms=TERMS, *, model_terms=False):
    return list(COMPONENTS[name].check(params, CheckContext(terms=terms, model_terms=model_terms)))


def test_what_is_offered():
    assert list(COMPONENTS) == ["weighted_sum", "static", "uncertainty", "dwa", "schedule"]


@pytest.mark.parametrize(
    ("name", "params", "terms", "message", "param"),
    [
        ("static", {"kd_loss_weight": 0.5}, TERMS, "no term gets the other 0.5", "task_term"),
        ("static", {"kd_loss_weight": 0.5, "task_term": "cc"}, TERMS, "no term 'cc': did you mean 'ce'", "task_term"),
        ("static", {"kd_loss_weight": [0.5], "task_term": "ce"}, TERMS, "1 entries but .* kd, at", "kd_loss_weight"),
        ("static", {"kd_loss_weight": [0.7, 0.7], "task_term": "ce"}, TERMS, "sums to 1.4", "kd_loss_weight"),
        ("static", {"kd_loss_weight": -0.1, "task_term": "ce"}, TERMS, "between 0 and 1, found -0.1", "kd_loss_weight"),
        ("static", {"kd_loss_weight": float("nan")}, TERMS, "between 0 and 1, found nan", "kd_loss_weight"),
        ("static", {"kd_loss_weight": 1}, {"kd": 0.9}, "leave the weight of kd at 1, found 0.9", None),
        ("static", {"task_term": "ce"}, {"ce": 1.0}, "no distillation term", "task_term"),
        ("weighted_sum", {"model_weight": {"box": 1}}, TERMS, "no model of the stage returns losses", "model_weight"),
        ("weighted_sum", {"model_weight": float("inf")}, TERMS, "must be a finite number", "model_weight"),
        ("uncertainty", {"form": {"kdd": "regression"}}, TERMS, "no term 'kdd': did you mean 'kd'", "form"),
        ("uncertainty", {}, {"kd": 0.0}, "needs positive weights", None),
        ("uncertainty", {"init": float("nan")}, TERMS, "init must be a finite number", "init"),
        ("schedule", {"schedules": {"kdd": HALF}}, TERMS, "no term 'kdd': did you mean 'kd'", "schedules"),
        ("schedule", {"schedules": {"kd": {**HALF, "to": 0}}}, TERMS, "schedule of kd: 'from' must be", "schedules"),
    ],
)
def test_mistakes_are_found_in_the_config(name, params, terms, message, param):
    (complaint,) = complaints(name, params, terms)
    assert re.search(message, complaint.message)
    assert complaint.param == param


def test_several_mistakes_are_all_reported():
    found = complaints("static", {"kd_loss_weight": [0.9, 0.9, 0.9], "task_term": "ce"}, {**TERMS, "kd": 2.0})
    assert len(found) == 3


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("static", {"kd_loss_weight": [0.2, 0.3], "task_term": "ce"}),
        ("static", {"kd_loss_weight": 0.5, "task_term": "student.loss"}),
        ("static", {"kd_loss_weight": [0.33, 0.56, 0.11]}),
        ("weighted_sum", {"model_weight": {"box": 1}}),
        ("weighted_sum", {"model_weight": None}),
        ("uncertainty", {"form": {"student.loss": "regression"}}),
        ("schedule", {"schedules": {"student.loss": HALF}}),
    ],
)
def test_what_is_right_or_not_known_yet(name, params):
    assert not complaints(name, params, model_terms=True)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("static", {"task_term": "ce"}),
        ("schedule", {"schedules": {"x": HALF}}),
        ("uncertainty", {"form": {"x": "regression"}}),
    ],
)
def test_built_by_hand_there_are_no_terms_to_check(name, params):
    assert not complaints(name, params, {})
