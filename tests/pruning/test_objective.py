"""Pruning what an Objective trains."""

import pytest
import torch

from kdcore import Pruner, build_objective, create
from kdcore.errors import WiringError

CONFIG = """
version: 1
models: {student: {}, teacher: {}}
stages:
  - name: distill
    epochs: 1
    train: [%s]
    losses:
      ce: {type: cross_entropy, inputs: {input: student}}
      kd: {type: kd, inputs: {student: student, teacher: teacher}}%s
    metrics: {models: []}
"""
GROUP = {"criterion": "snip_momentum", "pattern": "filter", "target_sparsity": 0.5}


@pytest.fixture
def wired():
    torch.manual_seed(0)
    batch = {"input": torch.randn(8, 1, 8, 8), "target": torch.randint(10, (8,)), "index": torch.arange(8)}

    def make(train="student", more=""):
        models = {name: create("model", "digits_cnn", width=4) for name in ("student", "teacher")}
        return build_objective(CONFIG % (train, more), models=models, example_batch=batch), batch

    return make


def test_the_trained_model_is_pruned(wired):
    objective, batch = wired()
    state = {name: value.clone() for name, value in objective.state_dict().items()}
    pruner = Pruner(objective, {**GROUP, "schedule": {"end": 4, "every": 2}}, total_steps=6, example_inputs=batch)
    for name, value in objective.state_dict().items():
        assert torch.equal(value, state[name]), name
    optimizer = torch.optim.SGD([each for _, each in objective.named_trainable()], lr=0.1, momentum=0.9)
    pruner.attach(optimizer)
    for _ in range(6):
        optimizer.zero_grad()
        objective(batch).total.backward()
        optimizer.step()
    assert [layer.name for layer in pruner.layers] == ["block1.conv", "block2.conv", "block3.conv"]
    assert pruner.skipped == [("fc", "makes the model's output")]
    assert [part.name for part in pruner.layers[0].coupled] == ["block1.bn.weight", "block1.bn.bias"]
    assert 0.4 < pruner.sparsity().total <= 0.5
    assert pruner.completed


def test_of_several_models_one_must_be_named(wired):
    objective, batch = wired(
        "student, teacher", "\n      back: {type: kd, inputs: {student: teacher, teacher: student}}"
    )
    group = {**GROUP, "schedule": "one_shot"}
    with pytest.raises(
        WiringError, match=r"several models are trained: student, teacher\s*say which with model: student"
    ):
        Pruner(objective, group)
    with pytest.raises(WiringError, match=r"model 'studnt' is not trained in this stage\s*did you mean 'student'"):
        Pruner(objective, {**group, "model": "studnt"})
    both = Pruner(objective, [{**group, "model": name} for name in ("teacher", "student")], example_inputs=batch)
    assert [layer.name for layer in both.layers] == [
        f"{m}.block{i}.conv" for m in ("teacher", "student") for i in (1, 2, 3)
    ]
    assert len(both.sparsity().layers) == 6
