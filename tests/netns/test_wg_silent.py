"""netctl-wg with a thousand peers that do not answer: it answers, and those that are there are not kept waiting."""

from __future__ import annotations

import os
import statistics
import time

import pytest

from netctl.tunnel.constants import UNPROMPTED_BURST, UNPROMPTED_RATE
from netctl.tunnel.messages import INITIATION_LEN
from netctl.tunnel.primitives import public_key
from tests.support.hosts import Host, join, needs_namespaces
from tests.support.wgside import LINK, OURS, PORT, Side, text

pytestmark = [pytest.mark.netns, needs_namespaces, pytest.mark.usefixtures("data_path")]

PEERS = 1000
ALL_TRIED_S = 60.0
"""Two seconds at their pace, and the machine may be busy."""
ANSWER_S = 1.0
"""Some milliseconds on a quiet machine; the agent waits 5 s."""


def test_silent_peers_keep_nobody_waiting() -> None:
    one, other = Host("silent-1"), Host("silent-2")
    try:
        join(one, other, "192.0.2.1/24", "192.0.2.2/24")
        # Somewhere that answers nothing: no ICMP, no wait for a neighbour.
        one.run("ip", "link", "add", "void", "type", "veth", "peer", "name", "drain")
        for link in ("void", "drain"):
            one.run("ip", "link", "set", link, "up")
        one.run("ip", "route", "add", "198.18.0.0/16", "dev", "void")
        ours, theirs = Side(one, OURS, 1), Side(other, OURS, 2)
        theirs.peer(ours, None)
        ours.peer(theirs, "192.0.2.2")
        config = one.run("wg", "showconf", LINK)
        for number in range(PEERS):
            config += f"\n[Peer]\nPublicKey = {text(public_key(os.urandom(32)))}\nPersistentKeepalive = 25\n"
            config += f"Endpoint = 198.18.{number >> 8}.{number & 255}:{PORT}\n"
            config += f"AllowedIPs = 10.{100 + (number >> 8)}.{number & 255}.1/32\n"

        def tried() -> list[int]:
            rows = [row.split() for row in one.run("wg", "show", LINK, "transfer").splitlines()]
            return [int(sent) // INITIATION_LEN for _, received, sent in rows if received == "0"]

        took: list[float] = []
        start = time.monotonic()
        one.run("wg", "setconf", LINK, "/dev/stdin", text=config)
        while True:
            asked = time.monotonic()
            initiations = tried()
            now = time.monotonic()
            took.append(now - asked)
            assert sum(initiations) <= UNPROMPTED_BURST + UNPROMPTED_RATE * (now - start) + 1
            ours.ping(theirs)
            if len(initiations) == PEERS and min(initiations) > 0:
                break
            assert now - start < ALL_TRIED_S, "each has its turn"
        assert statistics.median(took) < ANSWER_S, "a busy machine holds up one or the other"
    finally:
        one.close()
        other.close()
