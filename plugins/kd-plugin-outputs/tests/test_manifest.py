import re

import pytest
from kd_plugin_outputs import output_extractors

from kdcore.component import CheckContext

COMPONENTS = {component.name: component for component in output_extractors()}


def test_what_is_offered():
    assert list(COMPONENTS) == ["auto", "item", "model_losses"]


@pytest.mark.parametrize(
    ("params", "message", "param"),
    [
        ({}, "found neither", None),
        ({"key": None, "index": None}, "found neither", None),
        ({"key": "a", "index": 0}, "key 'a' and index 0", "key"),
    ],
)
def test_item_wants_exactly_one_of_key_and_index(params, message, param):
    (complaint,) = COMPONENTS["item"].check(params, CheckContext())
    assert re.search(message, complaint.message)
    assert complaint.param == param


@pytest.mark.parametrize("params", [{"key": "logits"}, {"index": -1}, {"key": None, "index": 0}])
def test_item_with_one_of_them(params):
    assert not COMPONENTS["item"].check(params, CheckContext())
