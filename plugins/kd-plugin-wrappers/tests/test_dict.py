from pathlib import Path

import pytest
import torch
from kd_plugin_wrappers.keyed import DictWrapper

GOLDEN = torch.load(Path(__file__).parent / "torchdistill.pt", weights_only=True)["dict"]


def test_it_gives_what_torchdistill_gives(cross_entropy):
    outputs = {key: value.clone().requires_grad_() for key, value in GOLDEN["input"].items()}
    wrapper = DictWrapper(cross_entropy(ignore_index=GOLDEN["ignore_index"]), weights=GOLDEN["weights"])
    loss = wrapper(input=outputs, target=GOLDEN["target"])
    torch.testing.assert_close(loss, GOLDEN["value"])
    for key, gradient in GOLDEN["grads"].items():
        torch.testing.assert_close(torch.autograd.grad(loss, outputs[key], retain_graph=True)[0], gradient)


def test_several_dicts_are_read_together_and_other_keys_left_out(distance, noise):
    student = {"out": noise(2, 3), "aux": noise(2, 3), "unused": noise(7)}
    teacher = {"aux": noise(2, 3), "out": noise(2, 3)}
    loss = DictWrapper(distance, weights={"out": 2, "aux": 0.5})(student=student, teacher=teacher)
    means = {key: ((student[key] - teacher[key]) ** 2).mean() for key in teacher}
    torch.testing.assert_close(loss, 2 * means["out"] + 0.5 * means["aux"])


def test_every_key_has_a_loss_that_sees_its_own_shapes(scaled, facts, noise):
    student = {"a.b": noise(2, 3), "c": noise(2, 5)}
    wrapper = DictWrapper(scaled, weights={"a.b": 1, "c": 1})
    wrapper.setup(facts(student=student, teacher=student))
    assert [loss.scale.shape[0] for loss in wrapper.losses] == [3, 5]


def test_a_missing_key_names_the_keys_present(distance, noise):
    wrapper = DictWrapper(distance, weights={"out": 1, "aux": 1})
    with pytest.raises(ValueError, match="student has no key 'aux'; its keys are out, auxx: did you mean 'auxx'"):
        wrapper(student={"out": noise(2), "auxx": noise(2)}, teacher=noise(2))


def test_no_dict_at_all(distance, noise):
    with pytest.raises(ValueError, match=r"student is a Tensor, teacher is a Tensor.*<model>@raw"):
        DictWrapper(distance, weights={"out": 1})(student=noise(2), teacher=noise(2))


@pytest.mark.parametrize("weights", [{}, {"out": float("nan")}])
def test_weights_must_be_finite_numbers(distance, weights):
    with pytest.raises(ValueError, match="weights must"):
        DictWrapper(distance, weights=weights)


def test_an_error_names_the_key(distance, noise):
    with pytest.raises(ValueError, match="key 'aux': student has shape"):
        DictWrapper(distance, weights={"aux": 1})(student={"aux": noise(2)}, teacher=noise(3))


def test_counts_with_a_shared_target(tokens, noise):
    target = torch.tensor([[1, 2, -100]])
    outputs = {"out": noise(1, 3, 4), "aux": noise(1, 3, 4)}
    wrapper = DictWrapper(tokens, weights={"out": 1, "aux": 0.5})
    total, count = wrapper(input=outputs, target=target)
    means = {k: torch.nn.functional.cross_entropy(v.flatten(0, 1), target.flatten()) for k, v in outputs.items()}
    torch.testing.assert_close(total / count, means["out"] + 0.5 * means["aux"])
    assert count == wrapper.count(target=target) == 2
    with pytest.raises(ValueError, match="target differs between key 'out' and the others"):
        wrapper(input=outputs, target={"out": target, "aux": target.clone()})


def test_an_ordered_dict_with_attributes_is_a_dict(distance, noise):
    class ModelOutput(dict):
        """As other libraries return it."""

    output = ModelOutput(out=noise(2))
    assert DictWrapper(distance, weights={"out": 1})(student=output, teacher=output) == 0
