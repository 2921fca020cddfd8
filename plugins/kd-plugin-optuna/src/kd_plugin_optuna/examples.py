"""Examples on which the conformance checks run."""

from __future__ import annotations

from kdcore.testing import Example

# Short, so that the few trials of a check get beyond the start.
EXAMPLES = {
    "bayesian": [Example(params={"startup_trials": 2})],
    "tpe": [Example(params={"startup_trials": 2})],
    "nsga2": [Example(params={"population": 2})],
}
