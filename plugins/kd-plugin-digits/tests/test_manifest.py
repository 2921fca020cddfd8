import inspect
import subprocess
import sys

import jsonschema_rs
import pytest

from kdcore.component import Kind
from kdcore.plugins import registry

COMPONENTS = [(Kind.DATASET, "digits"), (Kind.MODEL, "digits_cnn"), (Kind.MODEL, "digits_mlp")]


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
        (Kind.DATASET, "digits", {"split": "training"}),
        (Kind.DATASET, "digits", {"samples_per_class": 0}),
        (Kind.MODEL, "digits_cnn", {"width": 0}),
        (Kind.MODEL, "digits_mlp", {"dropout": 1}),
    ],
)
def test_schemas_refuse(kind, name, params):
    assert not jsonschema_rs.is_valid(registry().find(kind, name).schema, params)


def test_the_manifest_imports_neither_torch_nor_sklearn():
    code = (
        "import sys, kd_plugin_digits as plugin; plugin.datasets(); plugin.models();"
        "sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
