from pathlib import Path

import torch
from kd_plugin_wrappers.simple import SimpleWrapper

GOLDEN = torch.load(Path(__file__).parent / "torchdistill.pt", weights_only=True)["simple"]


def test_it_gives_what_torchdistill_gives(cross_entropy):
    student = GOLDEN["input"].clone().requires_grad_()
    loss = SimpleWrapper(cross_entropy())(input=student, target=GOLDEN["target"])
    torch.testing.assert_close(loss, GOLDEN["value"])
    torch.testing.assert_close(torch.autograd.grad(loss, student)[0], GOLDEN["grad"])


def test_it_passes_everything_on(distance, facts, noise):
    wrapper = SimpleWrapper(distance)
    described = facts(student=noise(2, 3), teacher=noise(2, 3))
    wrapper.setup(described)
    wrapper.progress(3, 10, 1)
    assert wrapper.loss.facts is described
    assert wrapper.loss.told == [(3, 10, 1)]


def test_it_counts_what_the_loss_counts(distance, tokens):
    target = torch.tensor([[1, -100, 2]])
    assert SimpleWrapper(tokens).count(target=target) == 2
    assert SimpleWrapper(tokens).count() is None
    assert SimpleWrapper(distance).count(teacher=target) is None


def test_inputs_that_do_not_tell_the_count_are_not_asked(masked_loss, noise):
    wrapper = SimpleWrapper(masked_loss)
    assert wrapper.count(teacher=noise(2, 3, 4), mask=torch.tensor([True, False])) == 1
    assert wrapper.count(teacher=noise(2, 3, 4)) is None


def test_a_wrapper_holds_the_parameters_of_its_loss(scaled, facts, noise):
    wrapper = SimpleWrapper(scaled)
    wrapper.setup(facts(student=noise(2, 3), teacher=noise(2, 3)))
    assert list(wrapper.state_dict()) == ["loss.scale"]
