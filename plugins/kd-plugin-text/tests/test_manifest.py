import inspect
import subprocess
import sys

import jsonschema_rs
import pytest

from kdcore.component import Kind
from kdcore.plugins import registry

COMPONENTS = [(Kind.DATASET, "text_bytes"), (Kind.MODEL, "text_transformer")]


@pytest.mark.parametrize(("kind", "name"), COMPONENTS)
def test_schema_defaults_are_the_constructors(kind, name):
    registered = registry().find(kind, name)
    parameters = inspect.signature(registered.factory()).parameters
    described = {key: part["default"] for key, part in registered.schema["properties"].items()}
    assert described == {key: parameter.default for key, parameter in parameters.items()}
    assert all(part["description"] for part in registered.schema["properties"].values())
    assert jsonschema_rs.is_valid(registered.schema, described)
    assert not jsonschema_rs.is_valid(registered.schema, {"no_such_param": 1})


@pytest.mark.parametrize(
    ("kind", "name", "params"),
    [
        (Kind.DATASET, "text_bytes", {"split": "training"}),
        (Kind.DATASET, "text_bytes", {"files": []}),
        (Kind.DATASET, "text_bytes", {"length": 0}),
        (Kind.MODEL, "text_transformer", {"dim": 0}),
        (Kind.MODEL, "text_transformer", {"dropout": 1}),
    ],
)
def test_schemas_refuse(kind, name, params):
    assert not jsonschema_rs.is_valid(registry().find(kind, name).schema, params)


def test_the_manifest_imports_no_torch():
    code = "import sys, kd_plugin_text as plugin; plugin.datasets(); plugin.models();sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
