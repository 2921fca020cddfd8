"""What every trial needs, imported once: trials are forked from a process that has imported this module.

Nothing here computes: a process in which torch has started threads cannot be forked safely.
"""

from __future__ import annotations

# The first optimizer imports it, which takes longer than a short trial.
import torch._dynamo
import torch.utils.flop_counter  # noqa: F401

import kdcore.search.trial  # noqa: F401
from kdcore.engine.report.page import template
from kdcore.plugins import registry

registry()
template("report.html.j2", "kdcore.engine.report")
