import subprocess
import sys

import jsonschema_rs
import pytest

from kdcore.component import Kind
from kdcore.plugins import registry


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
