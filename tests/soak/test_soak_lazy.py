"""Ten minutes of pairs that open with the first packet and are folded up, beside names that nobody answers for."""

from __future__ import annotations

import os

from tests.support.lablife import raised_lab
from tests.support.lazykit import Crowd
from tests.support.soakkit import LAZY_IDLE_S, grown, soak_lazy

SECONDS = float(os.environ.get("NETCTL_SOAK_SECONDS", "600"))
CROWD = Crowd.of(agents=8, names=200)


def test_nothing_grows_while_pairs_open_and_are_folded_up() -> None:
    environs = {"NETCTL_LAZY_IDLE_S": str(LAZY_IDLE_S)}
    with raised_lab(CROWD.document, CROWD.nats, environs, offline=CROWD.names) as lab:
        first, middle, last, opened = soak_lazy(lab, CROWD, SECONDS)
    for name, size in first.items():
        print(name, size, middle[name], last[name], sep="\n  ")
    print(f"{opened} pairs opened")
    assert grown(first, last) == []
    assert grown(middle, last) == []
