"""The checks, in the order in which they run: what a component says of itself, then what it does."""

from kdcore.testing.checks import (  # noqa: F401 - importing them enters their checks; isort: skip
    manifest,
    params,
    basics,
    ranges,
    seeds,
    gradients,
    batches,
    precision,
    degenerate,
    equality,
    state,
    compiled,
    devices,
    processes,
    datasets,
    extractors,
    criteria,
    searchers,
)
