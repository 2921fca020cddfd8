from pathlib import Path

import pytest
import torch
from kd_plugin_balancers.weighted_sum import WeightedSumBalancer
from torch.nn import functional as F

GOLDEN = torch.load(Path(__file__).parent / "torchdistill.pt", weights_only=True)


def golden_terms(student, student_map):
    """Cross entropy, half of it with half of the softened divergence, and attention transfer."""
    cross_entropy = F.cross_entropy(student, GOLDEN["target"])
    softened = F.log_softmax(student / 4, 1), F.softmax(GOLDEN["teacher"] / 4, 1)
    kd = 0.5 * cross_entropy + 0.5 * 16 * F.kl_div(*softened, reduction="batchmean")
    maps = [F.normalize(each.pow(2).mean(1).flatten(1)) for each in (student_map, GOLDEN["teacher_map"])]
    return {"ce": cross_entropy, "kd": kd, "at": (maps[0] - maps[1]).pow(2).mean()}


def test_it_gives_what_torchdistill_gives():
    inputs = {name: GOLDEN[name].clone().requires_grad_() for name in ("student", "student_map")}
    total = WeightedSumBalancer(GOLDEN["weights"])(golden_terms(**inputs))
    torch.testing.assert_close(total, GOLDEN["value"])
    for name, gradient in GOLDEN["grads"].items():
        torch.testing.assert_close(torch.autograd.grad(total, inputs[name], retain_graph=True)[0], gradient)


def test_losses_of_the_model_count_fully(scalars, slopes):
    terms = scalars({"kd": 2, "student.box": 3, "student.mask": 5})
    total = WeightedSumBalancer({"kd": 0.5, "student.box": None, "student.mask": None})(terms)
    assert total == 9
    assert slopes(total, terms) == {"kd": 0.5, "student.box": 1, "student.mask": 1}


def test_one_number_for_all_losses_of_the_model(scalars):
    terms = {"kd": 0.5, "student.box": None, "student.mask": None}
    assert WeightedSumBalancer(terms, model_weight=0.1)(scalars({"kd": 2, "student.box": 3, "student.mask": 5})) == 1.8


def test_a_weight_for_each_loss_of_the_model(scalars):
    terms = {"kd": 1, "a.box": None, "b.box": None}
    balancer = WeightedSumBalancer(terms, model_weight={"box": 10, "b.box": 100})
    assert balancer(scalars({"kd": 1, "a.box": 1, "b.box": 1})) == 111


@pytest.mark.parametrize("model_weight", [0, None, {"box": 0}])
def test_losses_of_the_model_may_be_left_out(scalars, slopes, model_weight):
    terms = scalars({"kd": 2, "student.box": float("inf")})
    total = WeightedSumBalancer({"kd": 1, "student.box": None}, model_weight=model_weight)(terms)
    assert slopes(total, terms) == {"kd": 1, "student.box": None}
    assert total == 2


def test_an_unlisted_loss_of_the_model():
    with pytest.raises(ValueError, match=r"returns the loss student.mask, which model_weight does not list \(box, cls"):
        WeightedSumBalancer({"student.box": None, "student.mask": None}, model_weight={"box": 1, "cls": 1})


def test_a_listed_loss_that_no_model_returns():
    with pytest.raises(ValueError, match="lists bix, but no model returns such a loss: did you mean 'box'"):
        WeightedSumBalancer({"student.box": None}, model_weight={"box": 1, "bix": 1})


@pytest.mark.parametrize(
    ("terms", "params", "message"),
    [
        ({}, {}, "there are no terms to balance"),
        ({"student.box": None}, {"model_weight": 0}, "leaves out all terms"),
        ({"kd": float("nan")}, {}, "weight of kd must be a finite number, found nan"),
        ({"student.box": None}, {"model_weight": float("inf")}, "weight of student.box must be a finite number"),
    ],
)
def test_nothing_sensible_to_add_up(terms, params, message):
    with pytest.raises(ValueError, match=message):
        WeightedSumBalancer(terms, **params)


def test_the_terms_of_a_step_must_be_those_of_the_stage(scalars):
    balancer = WeightedSumBalancer({"ce": 1, "kd": 1})
    with pytest.raises(ValueError, match="missing: kd; unexpected: kdd"):
        balancer(scalars({"ce": 1, "kdd": 1}))
    with pytest.raises(ValueError, match=r"term ce has shape \(2,\); a term is a scalar"):
        balancer({"ce": torch.ones(2), "kd": torch.ones(())})


def test_losses_of_the_model_may_be_missing_in_eval_mode_only(scalars):
    balancer = WeightedSumBalancer({"kd": 2, "student.box": None})
    with pytest.raises(ValueError, match=r"missing: student\.box; .* same losses every time"):
        balancer(scalars({"kd": 3}))
    assert balancer.eval()(scalars({"kd": 3})) == 6
    assert WeightedSumBalancer({"student.box": None}).eval()({}) == 0
    with pytest.raises(ValueError, match="missing: kd"):
        balancer(scalars({"student.box": 3}))
    with pytest.raises(ValueError, match=r"unexpected: student\.bix"):
        balancer(scalars({"kd": 3, "student.bix": 3}))


def test_it_has_no_state_and_keeps_the_dtype():
    balancer = WeightedSumBalancer({"ce": 0.5, "kd": 0.5})
    assert not balancer.state_dict()
    assert balancer({"ce": torch.ones(()), "kd": torch.ones(())}).dtype == torch.float32
