"""Sets of ports as spans."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from netctl.model.portspans import ports_in, spans, spans_text

PORTS = st.sets(st.integers(1, 65_535), max_size=60)


def test_neighbours_are_one_span() -> None:
    found = spans([40_102, 40_007, 40_100, 40_101, 40_007])
    assert found == [(40_007, 40_007), (40_100, 40_102)]
    assert spans_text(found) == "40007, 40100-40102"
    assert spans([]) == []


@given(PORTS)
def test_no_port_is_lost_and_none_added(ports: set[int]) -> None:
    assert ports_in(spans(ports)) == ports


@given(PORTS, st.integers(1, 5))
def test_few_spans_have_all_ports(ports: set[int], most: int) -> None:
    found = spans(ports, most)
    assert len(found) <= most
    assert ports <= ports_in(found)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(found))


def test_the_smallest_gaps_are_closed_first() -> None:
    assert spans([1, 3, 100, 102, 200], 3) == [(1, 3), (100, 102), (200, 200)]
