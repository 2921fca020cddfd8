import inspect
import subprocess
import sys

import jsonschema_rs
import pytest
from kd_plugin_adapters import adapters, checks

from kdcore.component import CheckContext, Kind
from kdcore.plugins import registry

NAMES = [component.name for component in adapters()]


@pytest.mark.parametrize("name", NAMES)
def test_schema_defaults_are_the_constructors(name):
    registered = registry().find(Kind.ADAPTER, name)
    parameters = inspect.signature(registered.factory()).parameters
    described = {key: part["default"] for key, part in registered.schema["properties"].items()}
    assert described == {key: parameter.default for key, parameter in parameters.items()}
    assert all(part["description"] for part in registered.schema["properties"].values())
    assert jsonschema_rs.is_valid(registered.schema, described)
    assert not jsonschema_rs.is_valid(registered.schema, {"no_such_param": 1})


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_those_of_forward(name):
    registered = registry().find(Kind.ADAPTER, name)
    parameters = list(inspect.signature(registered.factory().forward).parameters)[1:]
    assert parameters == [each.name for each in registered.component.inputs] == ["x"]


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("linear", {"out_features": 0}),
        ("mlp", {"activation": "swish"}),
        ("mlp", {"hidden_features": [0]}),
        ("conv", {"kernel_size": [1, 1, 1, 1]}),
        ("conv1x1", {"spatial_dims": 4}),
        ("feature_matcher", {"dim": 0}),
        ("pool", {"kind": "mean"}),
        ("resize", {"mode": "bilinear"}),
        ("normalize", {"p": 0.5}),
    ],
)
def test_schemas_refuse(name, params):
    assert not jsonschema_rs.is_valid(registry().find(Kind.ADAPTER, name).schema, params)


def test_checks_say_what_a_schema_cannot():
    context = CheckContext()
    assert [each.param for each in checks.conv({"stride": 2, "padding": 1}, context)] == ["stride", "padding"]
    assert list(checks.conv({"kernel_size": 3, "stride": 2, "padding": 1}, context)) == []
    assert list(checks.conv({"kernel_size": None, "stride": 1, "padding": 0}, context)) == []
    assert [each.param for each in checks.resize({"align_corners": True}, context)] == ["align_corners"]
    assert list(checks.resize({"align_corners": True, "mode": "linear"}, context)) == []


def test_the_manifest_imports_no_torch():
    code = "import sys, kd_plugin_adapters as plugin; plugin.adapters(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
