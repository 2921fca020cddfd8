import pytest
import torch
from kd_plugin_digits.dataset import Digits
from kd_plugin_digits.networks import DigitsCNN, DigitsMLP
from torch import nn
from torch.nn import functional as F

IMAGES = torch.rand(3, 1, 8, 8)


@pytest.mark.parametrize("make", [DigitsCNN, DigitsMLP])
def test_logits_and_gradients(make):
    model = make(num_classes=7)
    logits = model(IMAGES)
    assert logits.shape == (3, 7)
    logits.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("make", [DigitsCNN, DigitsMLP])
def test_state_dict_round_trip(make):
    first, second = make(width=4).eval(), make(width=4).eval()
    assert not torch.equal(first(IMAGES), second(IMAGES))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(IMAGES), second(IMAGES))


@pytest.mark.parametrize("make", [DigitsCNN, DigitsMLP])
def test_the_seed_decides_the_weights(make):
    def build():
        torch.manual_seed(5)
        return make(width=4).state_dict()

    first, second = build(), build()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_cnn_modules_have_readable_names():
    assert [name for name, _ in DigitsCNN().named_children()] == ["block1", "block2", "block3", "pool", "fc"]
    assert [name for name, _ in DigitsCNN().block2.named_children()] == ["conv", "bn", "relu"]
    assert [name for name, _ in DigitsCNN(depth=1).named_children()] == ["block1", "pool", "fc"]


def test_cnn_shapes_of_the_blocks():
    model, x, shapes = DigitsCNN(width=4, depth=4), IMAGES, []
    for part in model:
        x = part(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(4, 8, 8), (8, 4, 4), (16, 2, 2), (16, 2, 2), (16,), (10,)]


def test_a_bottleneck_changes_the_first_two_blocks_alone():
    wide, narrow = DigitsCNN(width=8).state_dict(), DigitsCNN(width=8, bottleneck=2).state_dict()
    differing = [key for key in wide if wide[key].shape != narrow[key].shape]
    assert {key.split(".")[0] for key in differing} == {"block1", "block2"}
    assert narrow["block2.conv.weight"].shape == (16, 2, 3, 3)


def test_nothing_works_in_place():
    for model in (DigitsCNN(), DigitsMLP()):
        assert not any(getattr(module, "inplace", False) for module in model.modules())


def test_parameter_counts_of_the_readme():
    counts = {width: sum(p.numel() for p in DigitsCNN(width).parameters()) for width in (2, 4, 8, 32, 64)}
    assert counts == {2: 496, 4: 1702, 8: 6274, 32: 94186, 64: 372682}


def test_mlp_layers_and_dropout():
    model = DigitsMLP(width=16, depth=2, dropout=0.5)
    assert [name for name, _ in model.named_children()] == ["flatten", "layer1", "layer2", "fc"]
    assert not torch.equal(model(IMAGES), model(IMAGES))
    assert torch.equal(model.eval()(IMAGES), model(IMAGES))
    linear = [module for module in DigitsMLP(depth=0).modules() if isinstance(module, nn.Linear)]
    assert [(each.in_features, each.out_features) for each in linear] == [(64, 10)]


@pytest.mark.parametrize(
    ("make", "params", "match"),
    [
        (DigitsCNN, {"width": 0}, "width must be 1 or more, found 0"),
        (DigitsCNN, {"depth": 0}, "depth must be 1 or more, found 0"),
        (DigitsCNN, {"bottleneck": 0}, "bottleneck must be 1 or more, found 0"),
        (DigitsMLP, {"depth": -1}, "depth must be 0 or more, found -1"),
        (DigitsMLP, {"dropout": 1.0}, "dropout must be at least 0 and below 1, found 1.0"),
        (DigitsMLP, {"num_classes": 0}, "num_classes must be 1 or more, found 0"),
    ],
)
def test_impossible_sizes(make, params, match):
    with pytest.raises(ValueError, match=match):
        make(**params)


def test_a_small_cnn_learns_the_digits():
    torch.manual_seed(0)
    train, test, model = Digits("train"), Digits("test"), DigitsCNN(width=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        for index in torch.randperm(len(train)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(train.images[index]), train.targets[index]).backward()
            optimizer.step()
    accuracy = (model.eval()(test.images).argmax(1) == test.targets).float().mean()
    assert accuracy > 0.85
