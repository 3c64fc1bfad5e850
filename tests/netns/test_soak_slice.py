"""Slices of the soak (`make soak` takes ten minutes of each): agents, links, the mediator and tunnels come and go."""

from __future__ import annotations

import pytest

from tests.support.lablife import EXAMPLE, connected_lab, raised_lab
from tests.support.lazykit import Crowd
from tests.support.soakkit import LAZY_IDLE_S, grown, soak, soak_lazy, without

pytestmark = [pytest.mark.netns, pytest.mark.lab]
SECONDS = 30.0
"""With the first pass and its calms it is some 45 s of shaking."""


def test_nothing_grows_while_everything_comes_and_goes() -> None:
    with connected_lab(EXAMPLE) as lab:
        first, middle, last, rounds = soak(lab, SECONDS)
    assert rounds >= 3
    assert grown(without(first, "mediator"), last) == []
    assert grown(middle, last) == []


def test_nothing_grows_while_pairs_open_and_are_folded_up() -> None:
    crowd, environs = Crowd.of(agents=4, names=130), {"NETCTL_LAZY_IDLE_S": str(LAZY_IDLE_S)}
    with raised_lab(crowd.document, crowd.nats, environs, offline=crowd.names) as lab:
        first, middle, last, opened = soak_lazy(lab, crowd, SECONDS)
    assert opened >= 4
    assert grown(first, last) == []
    assert grown(middle, last) == []
