"""More negatives than there are samples to draw from."""

from __future__ import annotations

import pytest
import torch
from kd_plugin_crd.loss import CRDLoss

from kdcore.contracts import Facts, TensorFacts, set_up

FACTS = Facts(
    inputs={name: TensorFacts.of(torch.zeros(4, 6)) for name in ("student", "teacher")},
    num_samples=10,
    targets=torch.tensor([0] * 6 + [1] * 4),
)


def test_relax_is_named_where_it_helps() -> None:
    pattern = r"num_negatives is 9 but of 10 samples only 4 .*class 0; lower num_negatives, or give sampling: relax$"
    with pytest.raises(ValueError, match=pattern):
        set_up(CRDLoss(num_negatives=9), FACTS)
    set_up(CRDLoss(num_negatives=9, sampling="relax"), FACTS)


def test_and_only_there() -> None:
    with pytest.raises(ValueError, match=r"num_negatives is 10 but .*; lower num_negatives$"):
        set_up(CRDLoss(num_negatives=10), FACTS)
