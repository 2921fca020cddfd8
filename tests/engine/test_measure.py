from __future__ import annotations

import math

import pytest

from kdcore.engine import measure


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("accuracy", 0.9461, "94.61 %"),
        ("top_5", 1.0, "100.00 %"),
        ("accuracy", 94.61, "94.61"),
        ("perplexity", 0.5, "0.5000"),
        ("loss", 0.0, "0"),
        ("loss", 1234567.0, "1.235e+06"),
        ("loss", 0.00001234, "1.234e-05"),
        ("lr", 0.01, "0.01"),
        ("loss", math.nan, "nan"),
        ("loss", None, "-"),
    ],
)
def test_values_are_written_for_people(name: str, value: float | None, expected: str) -> None:
    assert measure.show(name, value) == expected


def test_the_headline_metric_is_an_accuracy_else_what_was_selected_else_a_loss() -> None:
    assert measure.headline_metric(["loss", "top_5", "accuracy"], "loss") == "accuracy"
    assert measure.headline_metric(["loss", "token_accuracy"], "loss") == "token_accuracy"
    assert measure.headline_metric(["loss", "perplexity"], "perplexity") == "perplexity"
    assert measure.headline_metric(["loss", "perplexity"], "gone") == "loss"
    assert measure.headline_metric(["zeta", "beta"]) == "beta"
    assert measure.headline_metric([]) is None


def test_the_best_stands_out_only_against_others() -> None:
    assert measure.best_of("accuracy", [0.5, None, 0.7, 0.7]) == [False, False, True, True]
    assert measure.best_of("latency ms", [0.5, 0.7]) == [True, False]
    assert measure.best_of("accuracy", [0.5, 0.5]) == [False, False]
    assert measure.best_of("loss", [0.5, None]) == [False, False]


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.04, "0.0 s"), (9.96, "10 s"), (65, "1 min 05 s"), (3600, "1 h 00 min")]
)
def test_durations_are_written_for_people(seconds: float, expected: str) -> None:
    assert measure.show_duration(seconds) == expected
