import json
from pathlib import Path

import pytest
from kd_plugin_balancers.static import StaticBalancer

GOLDEN = json.loads((Path(__file__).parent / "modelopt.json").read_text())
TASK = "student_loss"


def build(terms, weight, **params):
    return StaticBalancer(dict.fromkeys(terms, 1.0), **({} if weight is None else {"kd_loss_weight": weight}), **params)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(case["weight"]))
def test_it_gives_what_modelopt_gives_and_refuses_what_it_refuses(case, scalars, slopes):
    if not case["accepted"]:
        with pytest.raises(ValueError, match="must lie between 0 and 1, found"):
            build(["kd", TASK], case["weight"], task_term=TASK)
        return
    with_task = [each for each in case["totals"] if TASK in each["terms"]]
    assert len(with_task) == 2
    for each in with_task:
        terms = scalars(each["terms"])
        total = build(terms, case["weight"], task_term=TASK)(terms)
        assert total.item() == pytest.approx(each["total"], rel=1e-6)
        assert slopes(total, terms) == pytest.approx(each["gradients"], rel=1e-6)


@pytest.mark.parametrize("weight", [0.25, 0.5])
def test_without_a_task_term_the_rest_is_not_dropped(weight):
    with pytest.raises(ValueError, match=rf"sums to {weight} and no term gets the other {1 - weight}"):
        build(["kd"], weight)


def test_a_number_multiplies_the_sum_of_the_distillation_terms(scalars, slopes):
    terms = scalars({"kd": 2, "ce": 3, "at": 5})
    total = build(terms, 0.25, task_term="ce")(terms)
    assert total == 0.25 * (2 + 5) + 0.75 * 3
    assert slopes(total, terms) == {"kd": 0.25, "ce": 0.75, "at": 0.25}


def test_a_list_goes_by_the_order_of_the_config(scalars, slopes):
    terms = scalars({"kd": 2, "ce": 3, "at": 5})
    total = build(terms, [0.25, 0.5], task_term="ce")(terms)
    assert slopes(total, terms) == {"kd": 0.25, "ce": 0.25, "at": 0.5}
    assert total == 0.5 + 0.75 + 2.5


@pytest.mark.parametrize("weights", [[0.33, 0.56, 0.11], [0.7, 0.2, 0.1], [0.1] * 10])
def test_decimals_that_sum_to_one_on_paper(scalars, weights):
    terms = scalars({f"kd{index}": 1 for index in range(len(weights))})
    assert build(terms, weights)(terms).item() == pytest.approx(1)
    terms |= scalars({"ce": 1000})
    assert build(terms, weights, task_term="ce")(terms).item() == pytest.approx(1)


def test_all_to_distillation_still_reaches_the_task(scalars, slopes):
    terms = scalars({"kd": 2, "ce": 3})
    assert slopes(build(terms, 1, task_term="ce")(terms), terms) == {"kd": 1, "ce": 0}


def test_the_task_may_be_a_loss_that_the_model_returns(scalars):
    balancer = StaticBalancer({"kd": 1, "student.loss": None}, kd_loss_weight=0.25, task_term="student.loss")
    assert balancer(scalars({"kd": 4, "student.loss": 8})) == 7


@pytest.mark.parametrize("weight", [-0.5, 1.5, float("nan"), [-0.5, 1.0], [2.0, -1.0], [float("nan"), 0.5]])
def test_every_weight_lies_between_0_and_1(weight):
    with pytest.raises(ValueError, match="must lie between 0 and 1, found"):
        build(["kd", "at", "ce"], weight, task_term="ce")


@pytest.mark.parametrize(
    ("terms", "params", "message"),
    [
        (["kd", "at", "ce"], {"weight": [0.7, 0.7], "task_term": "ce"}, "sums to 1.4; the sum may be at most 1"),
        (
            ["kd", "at", "ce"],
            {"weight": [0.5], "task_term": "ce"},
            "1 entries but there are 2 distillation terms: kd, at",
        ),
        (["kd", "ce"], {"weight": 0.5, "task_term": "cee"}, "there is no term 'cee': did you mean 'ce'"),
        (["ce"], {"weight": 0.5, "task_term": "ce"}, "no distillation term besides the task term"),
        (["kd"], {"weight": None}, "name the task term"),
        ([], {"weight": 1.0}, "there are no terms to balance"),
    ],
)
def test_what_does_not_fit(terms, params, message):
    with pytest.raises(ValueError, match=message):
        build(terms, **params)


def test_weights_of_the_config_stay_at_one():
    with pytest.raises(ValueError, match=r"leave the weight of kd at 1, found 0\.9"):
        StaticBalancer({"kd": 0.9, "ce": 1}, task_term="ce")


def test_other_losses_of_the_model_have_no_share():
    with pytest.raises(ValueError, match=r"no share for student\.aux, which the model itself returns"):
        StaticBalancer({"kd": 1, "ce": 1, "student.aux": None}, task_term="ce")


def test_the_terms_of_a_step_must_be_those_of_the_stage(scalars):
    with pytest.raises(ValueError, match="missing: ce"):
        build(["kd", "ce"], 0.5, task_term="ce")(scalars({"kd": 1}))
