import pytest
import torch
from kd_plugin_wrappers.causal import CausalWrapper
from kd_plugin_wrappers.masked import MaskedWrapper
from kd_plugin_wrappers.pairs import PairsWrapper
from torch import nn

KEEP = torch.tensor([[True, True, False], [False, True, False]])


def test_a_mask_drops_positions(distance, noise):
    student, teacher = noise(2, 3, 4), noise(2, 3, 4)
    loss = MaskedWrapper(distance)(student=student, teacher=teacher, mask=KEEP)
    torch.testing.assert_close(loss, ((student - teacher) ** 2)[KEEP].mean())


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_a_mask_of_zeros_and_ones(distance, noise, dtype):
    student, teacher = noise(2, 3, 4), noise(2, 3, 4)
    expected = MaskedWrapper(distance)(student=student, teacher=teacher, mask=KEEP)
    assert MaskedWrapper(distance)(student=student, teacher=teacher, mask=KEEP.to(dtype)) == expected


def test_an_ignored_label_gives_what_torch_gives(cross_entropy, noise):
    logits, target = noise(2, 3, 4), torch.tensor([[1, 0, -100], [-100, 3, -100]])
    loss = MaskedWrapper(cross_entropy(), ignore_index=-100)(input=logits, target=target)
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100)
    torch.testing.assert_close(loss, expected)


def test_mask_and_ignored_label_together(cross_entropy, noise):
    logits, target = noise(2, 3, 4), torch.tensor([[1, 255, 2], [0, 3, 1]])
    loss = MaskedWrapper(cross_entropy(), ignore_index=255)(input=logits, target=target, mask=KEEP)
    keep = KEEP & (target != 255)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits[keep], target[keep]))


def test_dropped_positions_get_no_gradient_even_if_they_are_not_finite(distance, noise):
    student = noise(2, 3, 4)
    student[~KEEP] = float("inf")
    student.requires_grad_()
    MaskedWrapper(distance)(student=student, teacher=noise(2, 3, 4), mask=KEEP).backward()
    assert student.grad[~KEEP].count_nonzero() == 0
    assert student.grad[KEEP].isfinite().all()


def test_gradcheck(distance, noise):
    student, teacher = noise(2, 3, 2).requires_grad_(), noise(2, 3, 2)
    wrapper = MaskedWrapper(distance)
    assert torch.autograd.gradcheck(lambda x: wrapper(student=x, teacher=teacher, mask=KEEP), student)


def test_all_kept_copies_nothing(distance, noise):
    seen = {}
    wrapper = MaskedWrapper(distance)
    wrapper.loss.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
    student = noise(2, 3, 4)
    wrapper(student=student, teacher=noise(2, 3, 4), mask=torch.ones(2, 3, dtype=torch.bool))
    assert seen["student"].data_ptr() == student.data_ptr()
    assert seen["student"].shape == (6, 4)


def test_all_dropped_is_zero_with_zero_gradient(gained, noise):
    student = (noise(2, 3, 4) * float("inf")).requires_grad_()
    wrapper = MaskedWrapper(gained)
    loss = wrapper(student=student, teacher=noise(2, 3, 4), mask=torch.zeros(2, 3, dtype=torch.bool))
    assert loss == 0
    assert loss.dim() == 0
    loss.backward()
    assert student.grad.count_nonzero() == 0
    assert wrapper.loss.gain.grad.tolist() == [0]


def test_all_dropped_reaches_a_head_and_plain_inputs(head_loss, noise):
    head = nn.Linear(4, 3, dtype=torch.float64)
    loss = MaskedWrapper(head_loss, ignore_index=-100)(hidden=noise(2, 4), head=head, target=torch.tensor([-100, -100]))
    loss.backward()
    assert [parameter.grad.count_nonzero() for parameter in head.parameters()] == [0, 0]


def test_all_dropped_of_a_loss_that_counts(tokens, masked_loss, noise):
    logits = noise(1, 2, 4).requires_grad_()
    total, count = MaskedWrapper(tokens, ignore_index=-100)(input=logits, target=torch.full((1, 2), -100))
    assert (total, count) == (0, 0)
    total.backward()
    assert logits.grad.count_nonzero() == 0
    features = noise(2, 3, 4)
    none = torch.zeros(2, 3, dtype=torch.bool)
    assert MaskedWrapper(masked_loss)(student=features, teacher=features, mask=none) == (0, 0)


def test_nothing_trains_and_nothing_is_kept(distance, noise):
    none = torch.zeros(2, dtype=torch.bool)
    assert MaskedWrapper(distance)(student=noise(2, 4), teacher=noise(2, 4), mask=none) == 0


def test_plain_inputs_and_modules_are_untouched(head_loss, wrapped, noise):
    head = nn.Linear(4, 3, dtype=torch.float64)
    hidden, target = noise(2, 3, 4), torch.tensor([[0, 1, 2], [2, 1, 0]])
    loss = MaskedWrapper(head_loss)(hidden=hidden, head=head, target=target, mask=KEEP)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(head(hidden[KEEP]), target[KEEP]))


def test_a_mask_over_rows_keeps_whole_rows(tokens, noise):
    logits, target = noise(2, 3, 4), torch.tensor([[0, 1, 2], [2, 1, 0]])
    total, count = MaskedWrapper(tokens)(input=logits, target=target, mask=torch.tensor([False, True]))
    torch.testing.assert_close(total / count, nn.functional.cross_entropy(logits[1], target[1]))


@pytest.mark.parametrize("ignore_index", [None, -100])
def test_the_count_is_known_from_the_batch(tokens, facts, noise, ignore_index):
    logits, target = noise(2, 3, 4), torch.tensor([[1, 0, 2], [-100, 3, -100]])
    wrapper = MaskedWrapper(tokens, ignore_index=ignore_index)
    inputs = {"input": logits, "target": target, "mask": KEEP}
    wrapper.setup(facts(**inputs))
    assert wrapper.count(target=target, mask=KEEP) == wrapper(**inputs)[1] == 3
    assert wrapper.count(mask=KEEP) is None
    assert wrapper.count(target=target) is None


def test_a_loss_with_a_mask_of_its_own_is_told_that_all_count(masked_loss, facts, noise):
    features = noise(2, 3, 4)
    wrapper = MaskedWrapper(masked_loss)
    wrapper.setup(facts(student=features, teacher=features, mask=KEEP))
    assert wrapper.count(mask=KEEP) == 3
    assert wrapper(student=features, teacher=features, mask=KEEP)[1] == 3


def test_a_scalar_loss_has_no_count(distance, facts, noise):
    wrapper = MaskedWrapper(distance)
    wrapper.setup(facts(student=noise(2, 3, 4), teacher=noise(2, 3, 4), mask=KEEP))
    assert wrapper.count(mask=KEEP) is None


def test_without_setup_the_count_needs_what_decides(tokens):
    wrapper = MaskedWrapper(tokens, ignore_index=-100)
    assert wrapper.count(mask=KEEP) is None
    assert MaskedWrapper(tokens).count(target=torch.tensor([1])) is None


def test_the_loss_hears_of_flat_positions(distance, facts, noise):
    wrapper = MaskedWrapper(distance)
    wrapper.setup(facts(student=noise(2, 3, 4), teacher=noise(2, 3, 5), mask=KEEP))
    seen = wrapper.loss.facts
    assert {name: each.shape for name, each in seen.inputs.items()} == {"student": (6, 4), "teacher": (6, 5)}
    assert seen.num_samples == 9


def test_nothing_to_drop_by(distance, facts, noise):
    wrapper = MaskedWrapper(distance)
    with pytest.raises(ValueError, match=r"bind its input mask .* or give ignore_index"):
        wrapper(student=noise(2), teacher=noise(2))
    with pytest.raises(ValueError, match=r"bind its input mask .* or give ignore_index"):
        wrapper.setup(facts(student=noise(2), teacher=noise(2)))


def test_an_ignored_label_without_labels(distance, cross_entropy, facts, noise):
    inputs = {"student": noise(2, 3), "teacher": noise(2, 3)}
    message = r"no input has integer labels .* ignore_index -100; the loss is given student \(positions\), teacher"
    with pytest.raises(ValueError, match=message):
        MaskedWrapper(distance, ignore_index=-100)(**inputs)
    with pytest.raises(ValueError, match=message):
        MaskedWrapper(distance, ignore_index=-100).setup(facts(**inputs))
    with pytest.raises(ValueError, match="integer labels"):
        MaskedWrapper(cross_entropy(), ignore_index=-100)(input=noise(2, 3), target=noise(2, 3))


def test_a_mask_of_other_numbers_is_refused(distance, noise):
    with pytest.raises(ValueError, match=r"mask has dtype torch.float64; a mask is boolean or 0/1"):
        MaskedWrapper(distance)(student=noise(2, 3), teacher=noise(2, 3), mask=noise(2))


@pytest.mark.parametrize("mask", [[KEEP, KEEP], torch.tensor(True)])
def test_a_mask_that_is_no_tensor_of_positions(distance, noise, mask):
    with pytest.raises(ValueError, match=r"mask must be one tensor, found a list|mask is a single number"):
        MaskedWrapper(distance)(student=noise(2, 3), teacher=noise(2, 3), mask=mask)


def test_shapes_that_do_not_fit(cross_entropy, facts, noise):
    wrapper = MaskedWrapper(cross_entropy(), ignore_index=-100)
    channels_first = {"input": noise(2, 4, 3, 3), "target": torch.zeros(2, 3, 3, dtype=torch.long)}
    message = r"input has shape \(2, 4, 3, 3\), which must begin with the positions \(2, 3, 3\)"
    with pytest.raises(ValueError, match=message):
        wrapper(**channels_first)
    with pytest.raises(ValueError, match=message):
        wrapper.setup(facts(**channels_first))
    with pytest.raises(ValueError, match=r"mask has shape \(2, 3\) but target has \(2,\)"):
        wrapper(input=noise(2, 3), target=torch.tensor([0, 1]), mask=KEEP)


def test_around_pairs_it_selects_in_every_list(masked_loss, wrapped, facts, noise):
    students, teachers = [noise(2, 3, 4), noise(2, 3, 5)], [noise(2, 3, 4), noise(2, 3, 5)]
    inputs = {"student": students, "teacher": teachers, "mask": KEEP}
    outside = MaskedWrapper(wrapped(PairsWrapper, masked_loss))
    inside = PairsWrapper(wrapped(MaskedWrapper, masked_loss))
    for wrapper in (outside, inside):
        wrapper.setup(facts(**inputs))
    total, count = outside(**inputs)
    expected = sum(((s - t) ** 2)[KEEP].sum() for s, t in zip(students, teachers, strict=True))
    torch.testing.assert_close(total, expected)
    assert count == outside.count(mask=KEEP) == inside.count(mask=KEEP) == 3
    torch.testing.assert_close(inside(**inputs)[0], expected)


def test_around_causal_it_is_refused(distance, wrapped, facts, noise):
    causal = wrapped(CausalWrapper, distance)
    with pytest.raises(ValueError, match=r"wrapper: \[causal, masked\]"):
        MaskedWrapper(causal)
    late = MaskedWrapper(wrapped(PairsWrapper, causal))
    with pytest.raises(ValueError, match=r"wrapper: \[causal, masked\]"):
        late.setup(facts(student=[noise(2, 3, 4)], teacher=[noise(2, 3, 4)], mask=KEEP))


def test_bfloat16(distance, noise):
    features = noise(2, 3, 4).bfloat16()
    assert MaskedWrapper(distance)(student=features, teacher=features, mask=KEEP).dtype == torch.bfloat16
