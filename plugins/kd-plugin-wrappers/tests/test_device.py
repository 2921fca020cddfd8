"""On the meta device a tensor has no value, so whatever would wait for one raises."""

import torch
from kd_plugin_wrappers.causal import CausalWrapper
from kd_plugin_wrappers.keyed import DictWrapper
from kd_plugin_wrappers.pairs import PairsWrapper


def test_all_but_masked_never_wait_for_the_device(masked_loss, wrapped):
    student, teacher, mask = (torch.ones(shape, device="meta") for shape in ((2, 3, 4), (2, 3, 4), (2, 3)))
    pairs = PairsWrapper(masked_loss, weights=[1, 2])
    keyed = DictWrapper(masked_loss, weights={"out": 1, "aux": 2})
    results = [
        pairs(student=[student, student], teacher=teacher, mask=mask),
        keyed(student={"out": student, "aux": student}, teacher=teacher, mask=mask),
        CausalWrapper(wrapped(PairsWrapper, masked_loss, weights=[1]))(student=[student], teacher=teacher, mask=mask),
    ]
    for total, count in results:
        assert (total.shape, total.device.type) == ((), "meta")
        assert count.device.type == "meta"
