import pytest
import torch
from kd_plugin_wrappers.pairs import PairsWrapper


def test_the_sum_of_weighted_pairs(distance, noise):
    students = [noise(2, 3), noise(2, 5), noise(4)]
    teachers = [noise(2, 3), noise(2, 5), noise(4)]
    loss = PairsWrapper(distance, weights=[1.0, -2.0, 0.5])(student=students, teacher=teachers)
    means = [((s - t) ** 2).mean() for s, t in zip(students, teachers, strict=True)]
    torch.testing.assert_close(loss, means[0] - 2 * means[1] + 0.5 * means[2])


def test_the_mean_divides_by_the_number_of_pairs(distance, noise):
    students, teachers = [noise(2, 3), noise(2, 5)], [noise(2, 3), noise(2, 5)]
    total = PairsWrapper(distance, weights=[1.0, 3.0])(student=students, teacher=teachers)
    mean = PairsWrapper(distance, weights=[1.0, 3.0], reduction="mean")(student=students, teacher=teachers)
    torch.testing.assert_close(mean, total / 2)


def test_the_gradient_reaches_every_pair(distance, noise):
    students, teachers = [noise(2, 3).requires_grad_(), noise(5).requires_grad_()], [noise(2, 3), noise(5)]
    wrapper = PairsWrapper(distance, weights=[1.0, 2.0])
    assert torch.autograd.gradcheck(lambda *inputs: wrapper(student=list(inputs), teacher=teachers), students)


def test_setup_builds_one_loss_per_pair_with_its_own_shapes(scaled, facts, noise):
    students, teachers = [noise(2, 3), noise(2, 5)], [noise(2, 3), noise(2, 5)]
    wrapper = PairsWrapper(scaled)
    wrapper.setup(facts(student=students, teacher=teachers))
    assert [loss.scale.shape[0] for loss in wrapper.losses] == [3, 5]
    assert [loss.facts.num_samples for loss in wrapper.losses] == [9, 9]
    assert list(wrapper.state_dict()) == ["losses.0.scale", "losses.1.scale"]
    expected = ((students[0] - teachers[0]) ** 2).mean() + ((students[1] - teachers[1]) ** 2).mean()
    torch.testing.assert_close(wrapper(student=students, teacher=teachers), expected)


def test_setup_twice_keeps_the_losses(distance, facts, noise):
    wrapper = PairsWrapper(distance)
    described = facts(student=[noise(2), noise(3)], teacher=[noise(2), noise(3)])
    wrapper.setup(described)
    first = list(wrapper.losses)
    wrapper.setup(described)
    assert list(wrapper.losses) == first


def test_without_setup_it_says_so(distance, noise):
    with pytest.raises(RuntimeError, match=r"call setup\(facts\) first, or give weights"):
        PairsWrapper(distance)(student=[noise(2)], teacher=[noise(2)])


def test_what_is_not_a_list_is_shared(distance, noise):
    teacher, students = noise(2, 3), [noise(2, 3), noise(2, 3)]
    loss = PairsWrapper(distance, weights=[1, 1])(student=students, teacher=teacher)
    torch.testing.assert_close(loss, sum(((student - teacher) ** 2).mean() for student in students))


def test_progress_reaches_every_loss(distance):
    wrapper = PairsWrapper(distance, weights=[1, 1])
    wrapper.progress(1, 2, 0)
    assert [loss.told for loss in wrapper.losses] == [[(1, 2, 0)]] * 2


@pytest.mark.parametrize(
    ("students", "teachers", "message"),
    [
        (2, 3, "differ in length: student has 2, teacher has 3"),
        (0, 0, "are empty: student has 0, teacher has 0"),
        (3, 3, "weights has 2 entries but there are 3 pairs"),
    ],
)
def test_lists_that_do_not_fit(distance, facts, noise, students, teachers, message):
    inputs = {"student": [noise(2)] * students, "teacher": [noise(2)] * teachers}
    with pytest.raises(ValueError, match=message):
        PairsWrapper(distance, weights=[1, 1])(**inputs)
    with pytest.raises(ValueError, match=message):
        PairsWrapper(distance, weights=[1, 1]).setup(facts(**inputs))


def test_no_list_at_all(distance, facts, noise):
    with pytest.raises(ValueError, match=r"none is \(inputs: student, teacher\)"):
        PairsWrapper(distance).setup(facts(student=noise(2), teacher=noise(2)))


@pytest.mark.parametrize("weights", [[], [float("nan")], [1.0, float("inf")]])
def test_weights_must_be_finite_numbers(distance, weights):
    with pytest.raises(ValueError, match="weights must"):
        PairsWrapper(distance, weights=weights)


def test_an_unknown_reduction(distance):
    with pytest.raises(ValueError, match="'sum' or 'mean', found 'max'"):
        PairsWrapper(distance, reduction="max")


def test_an_error_names_the_pair(distance, noise):
    with pytest.raises(ValueError, match=r"pair 2 of 2: student has shape \(2,\) but teacher has \(3,\)"):
        PairsWrapper(distance, weights=[1, 1])(student=[noise(2), noise(2)], teacher=[noise(2), noise(3)])


def test_sums_over_the_same_positions_add_up(tokens, noise):
    target = torch.tensor([[1, 2, -100], [0, -100, -100]])
    inputs = [noise(2, 3, 4), noise(2, 3, 4)]
    wrapper = PairsWrapper(tokens, weights=[1.0, 0.5])
    total, count = wrapper(input=inputs, target=target)
    means = [torch.nn.functional.cross_entropy(each.flatten(0, 1), target.flatten()) for each in inputs]
    torch.testing.assert_close(total / count, means[0] + 0.5 * means[1])
    assert count == 3
    assert wrapper.count(target=target) == 3


def test_sums_are_exact_over_two_uneven_batches(tokens, noise):
    targets = [torch.tensor([[1, 2, 3]]), torch.tensor([[0, -100, -100]])]
    batches = [[noise(1, 3, 4), noise(1, 3, 4)] for _ in targets]
    wrapper = PairsWrapper(tokens, weights=[1.0, 0.5])
    results = [wrapper(input=batch, target=target) for batch, target in zip(batches, targets, strict=True)]
    whole = wrapper(input=[torch.cat(each) for each in zip(*batches, strict=True)], target=torch.cat(targets))
    total, count = (sum(each) for each in zip(*results, strict=True))
    torch.testing.assert_close(total / count, whole[0] / whole[1])


def test_counts_that_follow_from_shapes_keep_their_ratio(masked_loss, noise):
    students, teachers = [noise(2, 4, 3), noise(2, 6, 5)], [noise(2, 4, 3), noise(2, 6, 5)]
    total, count = PairsWrapper(masked_loss, weights=[1.0, 1.0])(student=students, teacher=teachers)
    means = [((s - t) ** 2).sum(-1).mean() for s, t in zip(students, teachers, strict=True)]
    torch.testing.assert_close(total / count, means[0] + means[1])


def test_nothing_counted_in_any_pair(masked_loss, noise):
    mask = torch.zeros(2, 4)
    features = [noise(2, 4, 3), noise(2, 4, 3)]
    total, count = PairsWrapper(masked_loss, weights=[1, 1])(student=features, teacher=features, mask=mask)
    assert (total, count) == (0, 0)


def test_sums_over_different_positions_are_refused(masked_loss, noise):
    features = [noise(2, 4, 3), noise(2, 4, 3)]
    masks = [torch.ones(2, 4), torch.zeros(2, 4)]
    wrapper = PairsWrapper(masked_loss, weights=[1, 1])
    with pytest.raises(ValueError, match=r"mask differs between pair 1 of 2 and the others.*Bind mask once"):
        wrapper(student=features, teacher=features, mask=masks)
    with pytest.raises(ValueError, match="mask differs"):
        wrapper.count(mask=masks)
    same = wrapper(student=features, teacher=features, mask=masks[:1] * 2)
    assert same[1] == 8


def test_scalars_may_have_labels_per_pair(cross_entropy, noise):
    targets = [torch.tensor([0, 1]), torch.tensor([1, 1])]
    inputs = [noise(2, 3), noise(2, 3)]
    loss = PairsWrapper(cross_entropy(), weights=[1, 1])(input=inputs, target=targets)
    expected = sum(torch.nn.functional.cross_entropy(*each) for each in zip(inputs, targets, strict=True))
    torch.testing.assert_close(loss, expected)


def test_bfloat16(distance, noise):
    features = [noise(2, 3).bfloat16(), noise(2, 3).bfloat16()]
    loss = PairsWrapper(distance, weights=[1, 1])(student=features, teacher=features)
    assert loss.dtype == torch.bfloat16
    assert loss == 0
