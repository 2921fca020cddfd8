from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from kdcore.engine.report.axis import epoch_axis, value_axis
from kdcore.engine.report.chart import Series, line_chart


def test_a_chart_breaks_where_a_value_is_missing() -> None:
    chart = line_chart("t", [Series("s", [(1, 0.0), (2, None), (3, 1.0), (4, 0.5)], 0)], str)
    assert chart is not None
    assert re.sub(r"[\d. ]+", "", chart.curves[0].path) == "MML"
    assert chart.curves[0].dots[1].title == "s, epoch 3: 1.0"
    assert line_chart("t", [Series("s", [(1, None)], 0)], str) is None
    assert line_chart("t", [], str) is None


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=6), st.booleans())
def test_every_value_lies_within_the_axis(values: list[float], allow_log: bool) -> None:
    axis = value_axis(values, 200.0, 10.0, allow_log=allow_log)
    assert all(9.9 <= axis.at(value) <= 200.1 for value in values)
    assert 2 <= len(axis.ticks) <= 9
    assert all(9.9 <= axis.at(tick) <= 200.1 for tick in axis.ticks)


def test_axes_choose_round_ticks() -> None:
    assert value_axis([0.42, 0.97], 0, 1).ticks == (0.4, 0.6, 0.8, 1.0)
    assert value_axis([0.003, 2.0], 0, 1, allow_log=True).ticks == (0.001, 0.01, 0.1, 1.0, 10.0)
    assert value_axis([0.0, 2.0], 0, 1, allow_log=True).log is False
    assert epoch_axis([1, 20], 0, 1).ticks == (5, 10, 15, 20)
    assert epoch_axis([1], 0, 1).ticks == (1,)
    assert epoch_axis([1, 3], 0, 1).ticks == (1, 2, 3)
