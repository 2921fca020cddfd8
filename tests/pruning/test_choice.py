"""Which layers are pruned, which are not and why, and what is an error before training."""

import pytest
import torch
from torch import nn

from kdcore import Pruner
from kdcore.errors import PluginError, WiringError

HALF = {"target_sparsity": 0.5, "schedule": "one_shot"}


def names(pruner):
    return [layer.name for layer in pruner.layers]


class Branches(nn.Module):
    """Two heads, the first of which is read as the output; named in an order that misleads."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 4)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8))
        self.aux = nn.Linear(8, 4)

    def forward(self, x):
        features = self.body(x)
        return {"aux": self.aux(features), "logits": torch.log_softmax(self.head(features) / 2, -1).squeeze()}


def test_the_layer_that_makes_the_output_is_left_out_and_said_so():
    pruner = Pruner(Branches(), HALF, example_inputs=torch.randn(3, 6))
    assert names(pruner) == ["body.0", "body.2", "aux"]
    assert pruner.skipped == [("head", "makes the model's output")]
    assert pruner.messages == [
        "pruning leaves head alone, which makes the model's output; prune_classifier: true prunes it too"
    ]


def test_without_an_example_the_last_linear_counts_as_the_output():
    pruner = Pruner(Branches(), HALF)
    assert names(pruner) == ["head", "body.0", "body.2"]
    assert "leaves aux alone, which makes the model's output (its last Linear)" in pruner.messages[0]
    assert names(Pruner(Branches(), {**HALF, "prune_classifier": True})) == ["head", "body.0", "body.2", "aux"]


def test_example_inputs_as_arguments():
    class Two(Branches):
        def forward(self, x, *, scale):
            return super().forward(x * scale)

    example = {"x": torch.randn(3, 6), "scale": torch.ones(())}
    assert names(Pruner(Two(), HALF, example_inputs=example)) == ["body.0", "body.2", "aux"]
    assert names(Pruner(Branches(), HALF, example_inputs=(torch.randn(3, 6),))) == ["body.0", "body.2", "aux"]
    with pytest.raises(WiringError, match=r"the model failed on the example inputs[\s\S]*a tuple of arguments"):
        Pruner(Branches(), HALF, example_inputs=torch.randn(3, 5))


def test_a_convolution_that_makes_the_output():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert names(Pruner(model, HALF, example_inputs=torch.randn(2, 1, 5, 5))) == ["0"]


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ({"include": ["body"]}, ["body.0", "body.2"]),
        ({"include": ["body.*"], "exclude": ["*.2"]}, ["body.0"]),
        ({"exclude": ["body"]}, ["head", "aux"]),
        ({"include": ["student.body.0"], "model": "student"}, ["body.0"]),
        ({"include": ["student"], "exclude": ["student.head"], "model": "student"}, ["body.0", "body.2", "aux"]),
    ],
)
def test_include_and_exclude(group, expected):
    assert names(Pruner(Branches(), {**HALF, "prune_classifier": True, **group})) == expected


def test_why_layers_are_left_alone():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 8), nn.Linear(8, 4))
    pruner = Pruner(model, {**HALF, "pattern": "4x1", "exclude": ["2"]})
    assert names(pruner) == ["0"]
    assert pruner.skipped == [
        ("1", "4x1 does not fit: 6 outputs are no multiple of 4"),
        ("2", "excluded by '2'"),
        ("3", "makes the model's output"),
    ]


def test_types_of_layers():
    model = nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.Conv2d(2, 4, 3), nn.Conv3d(2, 4, 3), nn.ConvTranspose2d(4, 4, 3), nn.Linear(4, 4)
    )
    everything = {**HALF, "prune_classifier": True}
    assert names(Pruner(model, everything)) == ["0", "1", "2", "4"]
    assert names(Pruner(model, {**everything, "layers": ["Conv1d", "Conv3d"]})) == ["0", "2"]
    with pytest.raises(WiringError, match=r"layers: 'Conv2D' is no type of layer[\s\S]*did you mean 'Conv2d'"):
        Pruner(model, {**everything, "layers": ["Conv2D"]})


def test_shared_and_computed_weights_are_pruned_once_or_not():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    nn.utils.parametrizations.weight_norm(model[2])
    pruner = Pruner(model, {**HALF, "prune_classifier": True})
    assert names(pruner) == ["0"]
    assert pruner.skipped == [
        ("2", "its weight is computed (a parametrization), not a parameter"),
        ("1", "shares its weight with 0"),
    ] or dict(pruner.skipped) == {
        "1": "shares its weight with 0",
        "2": "its weight is computed (a parametrization), not a parameter",
    }


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"include": ["bdy.*"]}, r"pruning.include: include: 'bdy.\*' matches no module[\s\S]*did you mean 'body"),
        ({"exclude": ["haed"]}, r"pruning.exclude: exclude: 'haed' matches no module[\s\S]*did you mean 'head'"),
        ({"include": ["body.1"]}, r"no layers of type Linear.* among what include names \(body.1\)"),
        ({"pattern": "32x1"}, r"no layer is left to prune by pattern 32x1: .*body.0 \(32x1 does not fit: 8 outputs"),
        ({"pattern": "head"}, r"there are no attention modules\n *choose a pattern of single layers"),
        ({"include": ["aux"]}, r"no layer is left to prune by pattern 1x1: aux \(makes the model's output\)"),
        ({"criterion": "magnitud"}, r"pruning.criterion.*magnitud[\s\S]*did you mean 'magnitude'"),
        ({"criterion": {"type": "snip_momentum", "params": {"alpha": 2}}}, r"alpha.*at most 1, found 2"),
        (
            {"criterion": "retrain_free", "pattern": "1:2"},
            r"'retrain_free' scores whole blocks, but 1:2 chooses weights",
        ),
        (
            {"pattern": "filter", "target_sparsity": 0.95},
            r"0.95 cannot be reached: with max_sparsity 0.98 and pattern filter, whole blocks of these layers come to 0.8472",
        ),
        (
            {"pattern": "filter", "target_sparsity": 0.3, "min_sparsity": 0.3},
            r"min_sparsity 0.3 of each layer comes, in whole blocks of pattern filter, to 0.*above target_sparsity 0.3",
        ),
    ],
)
def test_mistakes_that_the_model_shows(group, message):
    with pytest.raises(Exception, match=message) as caught:
        Pruner(Branches(), {**HALF, **group})
    assert isinstance(caught.value, (WiringError, PluginError)) or "alpha" in str(caught.value)


def test_what_is_reachable_can_be_reached():
    pruner = Pruner(Branches(), {**HALF, "pattern": "filter", "target_sparsity": 0.84})
    pruner.before_optimizer()
    assert 0.8 < pruner.sparsity().total <= 0.84


def test_frozen_parameters_are_an_error():
    model = Branches()
    model.body[0].requires_grad_(False)
    with pytest.raises(WiringError, match=r"pruning: body.0 is frozen[\s\S]*exclude: \[body.0\]"):
        Pruner(model, HALF)
    assert names(Pruner(model, {**HALF, "exclude": ["body.0"]})) == ["head", "body.2"]


def test_two_groups_with_one_layer_are_an_error():
    with pytest.raises(WiringError, match=r"body.2 is pruned by two groups, the first and the second[\s\S]*keep the"):
        Pruner(Branches(), [{**HALF, "include": ["body"]}, {**HALF, "include": ["*.2"]}])


def test_a_lazy_layer_is_an_error():
    with pytest.raises(WiringError, match=r"0 does not know its shape yet[\s\S]*run the model once"):
        Pruner(nn.Sequential(nn.LazyConv2d(4, 3), nn.Linear(4, 2)), HALF)


def test_no_group_is_an_error():
    with pytest.raises(WiringError, match="no group is given"):
        Pruner(Branches(), [])
