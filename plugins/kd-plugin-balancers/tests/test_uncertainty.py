import math

import pytest
import torch
from kd_plugin_balancers.uncertainty import UncertaintyBalancer


def test_the_equation(scalars):
    terms = {"ce": 0.5, "hint": 2.0, "student.loss": None}
    balancer = UncertaintyBalancer(terms, init=0.3, form={"hint": "regression"})
    with torch.no_grad():
        balancer.log_variances += torch.tensor([0.0, 0.5, -0.5])
    values = {"ce": 1.7, "hint": 0.4, "student.loss": 3.0}
    expected = (
        math.exp(-0.3) * 0.5 * 1.7 + 0.3 / 2 + math.exp(-0.8) * 2.0 * 0.4 / 2 + 0.8 / 2 + math.exp(0.2) * 3.0 - 0.2 / 2
    )
    assert balancer(scalars(values)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("form", "share"), [("classification", 1.0), ("regression", 0.5)])
def test_it_starts_from_the_weights_of_the_config(scalars, slopes, form, share):
    terms = scalars({"ce": 2, "kd": 3})
    total = UncertaintyBalancer({"ce": 1, "kd": 4}, form=form)(terms)
    assert slopes(total, terms) == {"ce": share, "kd": 4 * share}


def test_the_log_variances_settle_where_the_paper_says(scalars):
    """For a constant loss L the optimum of exp(-s) L + s / 2 is s = log 2L, of exp(-s) L / 2 + s / 2 it is log L."""
    balancer = UncertaintyBalancer({"ce": 1, "hint": 3}, form={"hint": "regression"})
    with torch.no_grad():
        balancer.log_variances.copy_(torch.tensor([math.log(2 * 0.7), math.log(3 * 5.0)]))
    balancer(scalars({"ce": 0.7, "hint": 5.0})).backward()
    torch.testing.assert_close(balancer.log_variances.grad, torch.zeros(2), atol=1e-6, rtol=0)


def test_gradcheck():
    balancer = UncertaintyBalancer({"ce": 1, "kd": 2}).double()

    def total(ce, kd, log_variances):
        return torch.func.functional_call(balancer, {"log_variances": log_variances}, ({"ce": ce, "kd": kd},))

    values = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.7, 2.0, [0.1, -0.4])]
    assert torch.autograd.gradcheck(total, values)


def test_zero_losses_are_finite(scalars, slopes):
    terms = scalars({"ce": 0, "kd": 0})
    balancer = UncertaintyBalancer({"ce": 1, "kd": 1})
    total = balancer(terms)
    assert total == 0
    assert slopes(total, terms) == {"ce": 1, "kd": 1}


def test_state_and_parameters(scalars):
    balancer = UncertaintyBalancer({"ce": 1, "kd": 1}, init=-1.5)
    assert list(balancer.state_dict()) == ["log_variances"]
    assert [parameter.shape for parameter in balancer.parameters()] == [(2,)]
    other = UncertaintyBalancer({"ce": 1, "kd": 1})
    other.load_state_dict(balancer.state_dict())
    terms = scalars({"ce": 1, "kd": 2})
    assert other(terms) == balancer(terms)


def test_losses_of_the_model_may_be_missing_in_eval_mode(scalars):
    balancer = UncertaintyBalancer({"ce": 1, "student.loss": None}).eval()
    assert balancer(scalars({"ce": 3})) == 3


@pytest.mark.parametrize(
    ("terms", "params", "message"),
    [
        ({"ce": 0}, {}, "that of ce is 0: its log-variance would fall without end"),
        ({"ce": -1}, {}, "needs positive weights"),
        ({"ce": float("nan")}, {}, "needs positive weights"),
        ({"ce": 1}, {"form": {"cc": "regression"}}, "form: there is no term 'cc': did you mean 'ce'"),
        ({"ce": 1}, {"form": "gaussian"}, "form of ce must be 'classification' or 'regression', found 'gaussian'"),
        ({"ce": 1}, {"init": float("inf")}, "init must be a finite number"),
        ({}, {}, "there are no terms"),
    ],
)
def test_what_it_refuses(terms, params, message):
    with pytest.raises(ValueError, match=message):
        UncertaintyBalancer(terms, **params)
