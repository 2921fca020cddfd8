"""Examples on which the conformance checks run."""

from kdcore.testing import Example

EXAMPLES = {
    "magnitude": [Example()],
    "gradient": [Example()],
    "snip": [Example()],
    "snip_momentum": [Example(), Example(name="slow", params={"alpha": 0.99, "beta": 0.01})],
    "snip_momentum_block": [Example()],
    "retrain_free": [Example(), Example(name="rearranging", params={"rearrange": True})],
    "random": [Example(), Example(name="seeded", params={"seed": 3})],
}
