"""A slice of the soak (`make soak` takes ten): agents, links and the mediator come and go."""

from __future__ import annotations

import pytest

from tests.support.lablife import EXAMPLE, connected_lab
from tests.support.soakkit import grown, soak, without

pytestmark = [pytest.mark.netns, pytest.mark.lab]
SECONDS = 30.0
"""With the first pass and its calms it is some 45 s of shaking."""


def test_nothing_grows_while_everything_comes_and_goes() -> None:
    with connected_lab(EXAMPLE) as lab:
        first, middle, last, rounds = soak(lab, SECONDS)
    assert rounds >= 3
    assert grown(without(first, "mediator"), last) == []
    assert grown(middle, last) == []
