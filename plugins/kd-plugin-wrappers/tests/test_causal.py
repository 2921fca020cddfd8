import pytest
import torch
from kd_plugin_wrappers.causal import CausalWrapper
from kd_plugin_wrappers.masked import MaskedWrapper
from kd_plugin_wrappers.pairs import PairsWrapper
from torch import nn

from kdcore.component import Input, Role

MASK = Input("mask", required=False, role=Role.LABELS)
TARGET = torch.tensor([[5, 1, 2], [5, 0, 3]])


def test_positions_predict_the_next_label(cross_entropy, tokens, noise):
    logits = noise(2, 3, 4)
    total, count = CausalWrapper(tokens)(input=logits, target=TARGET)
    expected = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), TARGET[:, 1:].flatten())
    torch.testing.assert_close(total / count, expected)
    assert count == 4


def test_positions_are_cut_without_labels_too(distance, noise):
    student, teacher = noise(2, 3, 4), noise(2, 3, 4)
    loss = CausalWrapper(distance)(student=student, teacher=teacher)
    torch.testing.assert_close(loss, ((student - teacher)[:, :-1] ** 2).mean())


def test_a_mask_belongs_to_the_labels(masked_loss, noise):
    student, teacher = noise(2, 3, 4), noise(2, 3, 4)
    mask = torch.tensor([[1, 0, 1], [1, 1, 0]])
    total, count = CausalWrapper(masked_loss)(student=student, teacher=teacher, mask=mask)
    distance = ((student - teacher) ** 2).sum(-1)
    torch.testing.assert_close(total, distance[0, 1] + distance[1, 0])
    assert count == 2


def test_a_mask_that_is_left_out(masked_loss, noise):
    features = noise(2, 3, 4)
    assert CausalWrapper(masked_loss)(student=features, teacher=features, mask=None)[1] == 4


def test_gradcheck(distance, noise):
    teacher = noise(2, 3, 2)
    wrapper = CausalWrapper(distance)
    assert torch.autograd.gradcheck(lambda x: wrapper(student=x, teacher=teacher), noise(2, 3, 2).requires_grad_())


def test_the_count_is_that_of_the_shifted_labels(tokens, distance):
    target = torch.tensor([[5, -100, 2], [-100, 0, 3]])
    assert CausalWrapper(tokens).count(target=target) == 3
    assert CausalWrapper(tokens).count() is None
    assert CausalWrapper(distance).count() is None


def test_the_loss_hears_of_shorter_sequences(distance, facts, noise):
    wrapper = CausalWrapper(distance)
    wrapper.setup(facts(student=noise(2, 3, 4), teacher=noise(2, 3, 4), extra=noise(7)))
    shapes = {name: each.shape for name, each in wrapper.loss.facts.inputs.items()}
    assert shapes == {"student": (2, 2, 4), "teacher": (2, 2, 4), "extra": (7,)}


def test_sequences_of_one_leave_nothing(gained, tokens, noise):
    student = noise(2, 1, 4).requires_grad_()
    wrapper = CausalWrapper(gained)
    loss = wrapper(student=student, teacher=noise(2, 1, 4))
    assert loss == 0
    loss.backward()
    assert student.grad.count_nonzero() == 0
    assert wrapper.loss.gain.grad.tolist() == [0]
    assert CausalWrapper(tokens)(input=noise(2, 1, 4), target=TARGET[:, :1]) == (0, 0)


def test_a_fused_head_is_refused(head_loss):
    with pytest.raises(ValueError, match="set causal: true in the params of the loss"):
        CausalWrapper(head_loss)


def test_inputs_without_time(cross_entropy, noise):
    with pytest.raises(ValueError, match=r"batch and time as the first two dimensions; .*target has shape \(2,\)"):
        CausalWrapper(cross_entropy())(input=noise(2, 4), target=torch.tensor([0, 1]))


def test_times_that_differ(cross_entropy, facts, noise):
    inputs = {"input": noise(2, 4, 5), "target": TARGET}
    message = r"same batch and time; input has shape \(2, 4, 5\), target has shape \(2, 3\)"
    with pytest.raises(ValueError, match=message):
        CausalWrapper(cross_entropy())(**inputs)
    with pytest.raises(ValueError, match=message):
        CausalWrapper(cross_entropy()).setup(facts(**inputs))


def test_outside_masked(distance, wrapped, facts, noise):
    student, teacher = noise(2, 3, 4), noise(2, 3, 4)
    mask = torch.tensor([[True, False, True], [True, True, False]])
    wrapper = CausalWrapper(wrapped(MaskedWrapper, distance, MASK))
    wrapper.setup(facts(student=student, teacher=teacher, mask=mask))
    loss = wrapper(student=student, teacher=teacher, mask=mask)
    torch.testing.assert_close(loss, ((student - teacher)[:, :-1] ** 2)[mask[:, 1:]].mean())


def test_around_pairs(distance, wrapped, facts, noise):
    students, teachers = [noise(2, 3, 4), noise(2, 3, 5)], [noise(2, 3, 4), noise(2, 3, 5)]
    wrapper = CausalWrapper(wrapped(PairsWrapper, distance))
    wrapper.setup(facts(student=students, teacher=teachers))
    expected = sum(((s - t)[:, :-1] ** 2).mean() for s, t in zip(students, teachers, strict=True))
    torch.testing.assert_close(wrapper(student=students, teacher=teachers), expected)
    assert [loss.facts.inputs["student"].shape for loss in wrapper.loss.losses] == [(2, 2, 4), (2, 2, 5)]
