"""Five minutes of TCP through netctl-wg across two renewals of the keys (`make soak`)."""

from __future__ import annotations

import json
import re

from tests.support.hosts import Host, join, needs_namespaces
from tests.support.patience import BUSY_S
from tests.support.processes import EVERY
from tests.support.wgside import GO, LINK, OURS, Side

pytestmark = needs_namespaces
SECONDS = 300
MAX_RESIDENT_MB = 80


def resident_mb(side: Side) -> float:
    """Peak memory of the program on this side."""
    (pid,) = re.findall(rf"^ *(\d+) .*{re.escape(OURS)} ", side.host.run(*EVERY), re.MULTILINE)
    found = re.search(r"VmHWM:\s+(\d+) kB", side.host.run("cat", f"/proc/{pid}/status"))
    assert found is not None
    return int(found[1]) / 1024


def test_five_minutes_of_tcp_across_two_rekeys() -> None:
    hosts = Host("wg-soak-1"), Host("wg-soak-2")
    try:
        join(*hosts, "192.0.2.1/24", "192.0.2.2/24")
        one, other = Side(hosts[0], OURS, 1), Side(hosts[1], GO, 2)
        one.peer(other, "192.0.2.2")
        other.peer(one, None)
        one.ping(other)
        started = int(one.host.run("wg", "show", LINK, "latest-handshakes").split()[1])
        with hosts[1].start("iperf3", "-s", "-1") as server:
            result = json.loads(
                one.host.run("iperf3", "-c", "10.77.0.2", "-J", "-t", str(SECONDS), timeout=SECONDS + 60)
            )
            server.wait(BUSY_S)
        intervals = [interval["sum"]["bits_per_second"] for interval in result["intervals"]]
        assert len(intervals) >= SECONDS - 2
        weak = [second for second, bits in enumerate(intervals) if bits < 0.05 * max(intervals)]
        gaps = [second for second in weak if {second + 1, second + 2} <= set(weak)]
        assert gaps == [], "three seconds almost without traffic"  # one may be the machine's own
        renewed = int(one.host.run("wg", "show", LINK, "latest-handshakes").split()[1])
        assert renewed - started >= 2 * 119
        assert resident_mb(one) < MAX_RESIDENT_MB
    finally:
        for host in hosts:
            host.close()


def test_time_renews_the_keys_and_nothing_is_lost() -> None:
    """REKEY_AFTER_TIME is two minutes, so this takes as long: with us as the initiator, and as the responder."""
    hosts = [Host(f"wg-rekey-{number}") for number in range(4)]
    try:
        pings = []
        for first, programs in ((0, (OURS, GO)), (2, (GO, OURS))):
            pair = hosts[first : first + 2]
            join(pair[0], pair[1], "192.0.2.1/24", "192.0.2.2/24")
            one, other = (
                Side(host, program, i + 1)
                for i, (host, program) in enumerate(zip(pair, programs, strict=True))
            )
            one.peer(other, "192.0.2.2")
            other.peer(one, None)
            one.ping(other)
            before = one.host.run("wg", "show", LINK, "latest-handshakes").split()[1]
            command = ("ping", "-q", "-i", "0.05", "-w", "126", "10.77.0.2")
            pings.append((one, before, one.host.start(*command)))
        for one, before, process in pings:
            output = process.communicate(timeout=150)[0]
            sent, received = (
                int(word) for word in re.findall(r"(\d+) (?:packets transmitted|received)", output)
            )
            assert sent > 1000
            assert received >= sent - 1, output  # the last may still be on its way
            after = one.host.run("wg", "show", LINK, "latest-handshakes").split()[1]
            assert int(after) - int(before) >= 115
    finally:
        for host in hosts:
            host.close()
