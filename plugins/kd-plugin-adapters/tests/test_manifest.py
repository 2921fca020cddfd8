import jsonschema_rs
import pytest
from kd_plugin_adapters import checks

from kdcore.component import CheckContext, Kind
from kdcore.plugins import registry


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
