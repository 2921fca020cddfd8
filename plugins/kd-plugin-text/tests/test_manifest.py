import jsonschema_rs
import pytest
from kd_plugin_text.checks import check_transformer

from kdcore.component import CheckContext, Kind
from kdcore.plugins import registry


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


def test_heads_that_do_not_share_the_width():
    (complaint,) = check_transformer({"dim": 10, "heads": 4}, CheckContext())
    assert complaint == ("dim is 10 and heads is 4; dim must be a multiple of heads", "dim")
    assert not list(check_transformer({"dim": 8, "heads": 4}, CheckContext()))
