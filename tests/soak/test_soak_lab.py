"""Ten minutes of a small internet on which agents, links and the mediator come and go (`make soak`)."""

from __future__ import annotations

import os

from tests.support.lablife import EXAMPLE, connected_lab
from tests.support.soakkit import grown, soak, without

SECONDS = float(os.environ.get("NETCTL_SOAK_SECONDS", "600"))


def test_nothing_grows_in_ten_minutes_of_churn() -> None:
    with connected_lab(EXAMPLE) as lab:
        first, middle, last, rounds = soak(lab, SECONDS)
    for name, size in first.items():
        print(name, size, middle[name], last[name], sep="\n  ")
    print(f"{rounds} rounds")
    assert grown(without(first, "mediator"), last) == []
    assert grown(middle, last) == []
