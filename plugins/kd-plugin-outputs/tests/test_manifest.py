import re
import subprocess
import sys

import pytest
from kd_plugin_outputs import output_extractors

from kdcore.component import CheckContext

COMPONENTS = {component.name: component for component in output_extractors()}


def test_what_is_offered():
    assert list(COMPONENTS) == ["auto", "item", "model_losses"]


def test_listing_and_checking_import_no_torch():
    code = (
        "import sys, kd_plugin_outputs as plugin; from kdcore.component import CheckContext\n"
        "for each in plugin.output_extractors(): list(each.check({}, CheckContext()) if each.check else ())\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
