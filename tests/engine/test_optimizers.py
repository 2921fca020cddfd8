from __future__ import annotations

import copy
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from kdcore.config.schemas import load_schema
from kdcore.engine.optimizers import build_optimizer
from kdcore.errors import ConfigError, Place, WiringError

ROOT = Path(__file__).parents[2]
REGENERATE = "torch and schemas/optimizers.json differ: run `python scripts/torch_schemas.py` and review the change"

CLASSES = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
}
USABLE = sorted(set(CLASSES) - {"LBFGS"})


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("torch_schemas", ROOT / "scripts" / "torch_schemas.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))


def named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(f"student.{name}", parameter) for name, parameter in model.named_parameters()]


def names_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[list[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]


def test_file_lists_the_optimizers_of_torch() -> None:
    assert set(load_schema("optimizers")["$defs"]) == set(CLASSES), REGENERATE


@pytest.mark.parametrize("name", USABLE)
def test_file_has_names_and_defaults_of_torch(name: str) -> None:
    definition = load_schema("optimizers")["$defs"][name]
    expected = {
        key: list(each.default) if isinstance(each.default, tuple) else each.default
        for key, each in inspect.signature(CLASSES[name]).parameters.items()
        if key != "params"
    }
    assert {
        key: each.get("default", inspect.Parameter.empty) for key, each in definition["properties"].items()
    } == expected, REGENERATE
    assert definition["additionalProperties"] is False
    assert all(each["description"] for each in definition["properties"].values())


def test_files_are_as_generated() -> None:
    script = generator()
    for name, schema in {"optimizers": script.optimizers(), "schedulers": script.schedulers()}.items():
        assert script.text(schema) + "\n" == (ROOT / "schemas" / f"{name}.json").read_text(encoding="utf-8"), REGENERATE


def test_generator_asks_for_a_description_of_what_is_new() -> None:
    class Novel(torch.optim.SGD):
        def __init__(self, params: Any, lr: float = 0.1, novelty: float = 0) -> None:
            super().__init__(params, lr)

    script = generator()
    with pytest.raises(SystemExit, match=r"Novel\(novelty=\.\.\.\) is new: describe it in torch_schemas\.py"):
        script.definition(Novel, script.OPTIMIZER_PARAMS)


def embedding() -> nn.Module:
    torch.manual_seed(0)
    return nn.Embedding(5, 3, sparse=True)


def matrices() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))


MODELS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "SparseAdam": (embedding, torch.tensor([0, 1, 1])),
    "Muon": (matrices, torch.linspace(-1, 1, 8).reshape(2, 4)),
}


@pytest.mark.parametrize("name", USABLE)
def test_every_optimizer_steps_as_torch_makes_it(name: str) -> None:
    make, batch = MODELS.get(name, (tiny, torch.linspace(-1, 1, 8).reshape(2, 4)))
    ours, theirs, start = make(), make(), make()
    optimizer = build_optimizer(name, named(ours))
    for model, each in ((ours, optimizer), (theirs, CLASSES[name](theirs.parameters()))):
        for _ in range(3):
            each.zero_grad()
            model(batch).square().sum().backward()
            each.step()
    assert type(optimizer) is CLASSES[name]
    for mine, reference, initial in zip(ours.parameters(), theirs.parameters(), start.parameters(), strict=True):
        assert torch.equal(mine, reference)
        assert not torch.equal(mine, initial)


def test_params_reach_torch_and_the_config_stays() -> None:
    config = {
        "type": "Adam",
        "params": {"lr": 1, "betas": [0, 0.5]},
        "groups": [{"pattern": "*.bias", "params": {"betas": [0.1, 0.2]}}],
    }
    before = copy.deepcopy(config)
    weights, biases = build_optimizer(config, named(tiny())).param_groups
    assert (weights["lr"], weights["betas"]) == (1.0, (0.0, 0.5))
    assert (biases["lr"], biases["betas"]) == (1.0, (0.1, 0.2))
    assert config == before


def test_first_matching_group_wins_and_the_rest_comes_first() -> None:
    model = tiny()
    groups = [
        {"pattern": ["student.1.*", "*.2.bias"], "params": {"weight_decay": 0}},
        {"pattern": "*.bias", "params": {"lr": 0.5}},
    ]
    optimizer = build_optimizer(
        {"type": "SGD", "params": {"lr": 0.1, "weight_decay": 0.01}, "groups": groups}, named(model)
    )
    assert names_of(optimizer, model) == [["0.weight", "2.weight"], ["1.weight", "1.bias", "2.bias"], ["0.bias"]]
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (0.1, 0.01),
        (0.1, 0),
        (0.5, 0.01),
    ]


def test_group_that_takes_everything_is_the_only_one() -> None:
    (group,) = build_optimizer(
        {"type": "SGD", "groups": [{"pattern": "*", "params": {"lr": 2}}]}, named(tiny())
    ).param_groups
    assert (len(group["params"]), group["lr"]) == (6, 2)


def test_frozen_parameters_are_left_out() -> None:
    model = tiny()
    model[0].requires_grad_(False)
    assert names_of(build_optimizer("SGD", named(model)), model) == [["1.weight", "1.bias", "2.weight", "2.bias"]]


def test_tied_parameters_are_taken_once_under_any_name() -> None:
    shared, own = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    pairs = [("student.embed.weight", shared), ("student.norm", own), ("student.head.weight", shared)]
    config = {"type": "SGD", "groups": [{"pattern": "student.head.*", "params": {"lr": 3}}]}
    rest, head = build_optimizer(config, pairs).param_groups
    assert rest["params"][0] is own
    assert [each is shared for each in head["params"]] == [True]


def test_patterns_tell_upper_from_lower_case() -> None:
    with pytest.raises(WiringError, match=r"'\*\.BIAS' of the optimizer's groups matches no parameter"):
        build_optimizer({"type": "SGD", "groups": [{"pattern": "*.BIAS"}]}, named(tiny()))


def test_pattern_that_matches_nothing_names_the_nearest_parameters() -> None:
    config = {"type": "SGD", "groups": [{"pattern": ["*.bias", "student.2.wieght"]}]}
    place = Place("stages.0.optimizer", "a.yaml", 7, 3)
    with pytest.raises(
        WiringError, match=r"(?s)a\.yaml:7:3: stages\.0\.optimizer: .*'student\.2\.wieght'.*'student\.2\.weight'"
    ):
        build_optimizer(config, named(tiny()), place=place)


def test_pattern_without_effect_says_why() -> None:
    model = tiny()
    model[0].requires_grad_(False)
    with pytest.raises(WiringError, match=r"'student\.0\.\*' .* matches only frozen parameters"):
        build_optimizer({"type": "SGD", "groups": [{"pattern": "student.0.*"}]}, named(model))
    groups = [{"pattern": "*.bias"}, {"pattern": "student.2.bias", "params": {"lr": 1}}]
    with pytest.raises(WiringError, match="matches only parameters that an earlier group has taken"):
        build_optimizer({"type": "SGD", "groups": groups}, named(model))


def test_nothing_to_train() -> None:
    with pytest.raises(WiringError, match=r"(?s)all 6 parameters are frozen.*remove a pattern from freeze:"):
        build_optimizer("SGD", named(tiny().requires_grad_(False)))
    with pytest.raises(WiringError, match=r"(?s)has no parameters.*under train:"):
        build_optimizer("SGD", [])


def test_wrong_config_is_reported_where_it_stands() -> None:
    place = Place("stages.0.optimizer", "a.yaml", 7, 3)
    with pytest.raises(ConfigError, match=r"a\.yaml:7:3: stages\.0\.optimizer\.params\.lr"):
        build_optimizer({"type": "SGD", "params": {"lr": -1}}, named(tiny()), place=place)
    with pytest.raises(ConfigError, match=r"LBFGS cannot be used: .*closure"):
        build_optimizer("LBFGS", named(tiny()))


def test_muon_names_what_is_no_matrix() -> None:
    with pytest.raises(WiringError, match=r"matrices only .* student\.0\.bias \(3,\), student\.1\.weight \(3,\)"):
        build_optimizer("Muon", named(tiny()))


def test_what_torch_refuses_is_said_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Strict(torch.optim.SGD):
        def __init__(self, params: Any, lr: float = 0.001) -> None:
            raise ValueError(f"lr {lr} is odd")

    monkeypatch.setattr(torch.optim, "SGD", Strict)
    with pytest.raises(WiringError, match=r"stages\.0: SGD of torch refuses this: lr 0\.1 is odd"):
        build_optimizer({"type": "SGD", "params": {"lr": 0.1}}, named(tiny()), place=Place("stages.0"))


def test_older_torch_lacks_a_param(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older(torch.optim.SGD):
        def __init__(self, params: Any, lr: float = 0.001, momentum: float = 0, dampening: float = 0) -> None:
            super().__init__(params, lr, momentum, dampening)

    monkeypatch.setattr(torch.optim, "SGD", Older)
    assert build_optimizer({"type": "SGD", "params": {"momentum": 0.9}}, named(tiny())).defaults["momentum"] == 0.9
    with pytest.raises(
        WiringError, match=r"(?s)SGD of torch .* has no param 'maximize'.*update torch, or remove maximize"
    ):
        build_optimizer({"type": "SGD", "params": {"maximize": True}}, named(tiny()))
    groups = [{"pattern": "*.bias", "params": {"weight_decay": 0.1}}]
    with pytest.raises(WiringError, match="has no param 'weight_decay'"):
        build_optimizer({"type": "SGD", "groups": groups}, named(tiny()))


def test_older_torch_lacks_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Adafactor")
    with pytest.raises(WiringError, match=r"torch [0-9.]+.* has no optimizer Adafactor"):
        build_optimizer("Adafactor", named(tiny()))
