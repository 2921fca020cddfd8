import pytest
import torch

import kdcore


def test_every_wrapper_can_be_built_by_hand(distance, noise):
    student, teacher = noise(2, 3, 4), noise(2, 3, 4)
    expected = (student - teacher) ** 2
    keep = torch.tensor([[True, False, True], [False, False, True]])

    def loss(name, student, teacher, *, params, **inputs):
        return kdcore.create("wrapper", name, make_loss=distance, **params)(student=student, teacher=teacher, **inputs)

    torch.testing.assert_close(loss("simple", student, teacher, params={}), expected.mean())
    torch.testing.assert_close(loss("causal", student, teacher, params={}), expected[:, :-1].mean())
    torch.testing.assert_close(loss("masked", student, teacher, params={}, mask=keep), expected[keep].mean())
    weights = {"weights": [1, 2], "reduction": "mean"}
    torch.testing.assert_close(loss("pairs", [student] * 2, [teacher] * 2, params=weights), 1.5 * expected.mean())
    keyed = loss("dict", {"out": student}, teacher, params={"weights": {"out": 0.5}})
    torch.testing.assert_close(keyed, 0.5 * expected.mean())


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("pairs", {"weights": []}, "'weights' .* must not be empty"),
        ("pairs", {"reduction": "max"}, "one of 'sum' or 'mean', found 'max'"),
        ("pairs", {"weight": [1]}, "unknown parameter 'weight'"),
        ("dict", {}, "missing parameter 'weights'"),
        ("dict", {"weights": {}}, "'weights' .* must not be empty"),
        ("masked", {"ignore_index": 0.5}, "must be a whole number or null"),
    ],
)
def test_params_are_checked(distance, name, params, message):
    with pytest.raises(kdcore.KdcoreError, match=message):
        kdcore.create("wrapper", name, make_loss=distance, **params)
