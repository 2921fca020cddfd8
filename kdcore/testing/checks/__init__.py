"""The checks, in the order in which they run: what a component says of itself, then what it does."""

from kdcore.testing.checks import (  # noqa: F401 - importing them enters their checks; isort: skip
    manifest,
    basics,
    gradients,
    batches,
    precision,
    degenerate,
    state,
    compiled,
    processes,
    datasets,
    extractors,
    criteria,
    searchers,
)
