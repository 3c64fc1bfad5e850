"""A busy machine fails no test of properties by the time that an example takes."""

from __future__ import annotations

import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@given(st.none())
@settings(max_examples=1, database=None)
def test_an_example_may_take_as_long_as_a_busy_machine_needs(nothing: None) -> None:
    assert nothing is None
    time.sleep(0.3)  # longer than Hypothesis allows unless told otherwise


def test_nor_by_the_time_that_making_them_takes() -> None:
    assert HealthCheck.too_slow in settings().suppress_health_check
