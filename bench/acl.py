"""How long ACLs take to load, and what a new flow costs under few and many: `python bench/acl.py` (as root).

Every packet here is denied, so each is a new flow that meets the whole ruleset. The last line is the ratio of
10,000 rules to 10, medians of one run.
"""

from __future__ import annotations

import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from ipaddress import ip_address, ip_network
from pathlib import Path

from netctl.engine.nftables import Nftables
from netctl.engine.ruleset import render
from netctl.model.document import PortRange
from netctl.model.hoststate import FilterRule, FilterTable

RUNS, PACKETS = 5, 10_000
SIZES = (10, 1_000, 10_000)
INSIDE = "NETCTL_BENCH_INSIDE"
RECEIVER, SENDER = "10.0.0.1", "10.0.3.200"


def table(count: int) -> FilterTable:
    """So many rules to one receiver, each for a few of a thousand members in both families, and its own port."""
    chance = random.Random(count)
    mine = frozenset({ip_network(f"{RECEIVER}/32"), ip_network("fd00::1/128")})
    members = [
        (ip_network(f"{ip_address('10.0.0.2') + i}/32"), ip_network(f"{ip_address('fd00::2') + i}/128"))
        for i in range(1000)
    ]
    rules = []
    for number in range(count):
        sources = frozenset(address for pair in chance.sample(members, 3) for address in pair)
        port = 1 + number * 6
        ports = (PortRange(port, port + chance.choice((0, 0, 3))),)
        rules.append(FilterRule(f"rule {number}", sources, mine, "tcp", ports))
    return FilterTable(frozenset({"lo"}), tuple(rules))


def packets_s() -> float:
    """Seconds for one packet, the median of some runs."""
    taken = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((SENDER, 0))
        for _ in range(RUNS):
            start = time.perf_counter()
            for _ in range(PACKETS):
                sender.sendto(b"x", (RECEIVER, 65000))
            taken.append((time.perf_counter() - start) / PACKETS)
    return statistics.median(taken)


def main() -> None:
    """Measure in a network namespace of its own."""
    if INSIDE not in os.environ:
        again = ["unshare", "--net", sys.executable, *sys.argv]
        raise SystemExit(subprocess.run(again, env={**os.environ, INSIDE: "1"}, check=False).returncode)
    for command in ("link set lo up", f"addr add {RECEIVER}/32 dev lo", f"addr add {SENDER}/32 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)
    cost = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in SIZES:
            wanted = table(count)
            start = time.perf_counter()
            render(wanted)
            compiled = time.perf_counter() - start
            nftables = Nftables(Path(folder) / f"{count}.json")
            start = time.perf_counter()
            nftables.set(wanted)
            loaded = time.perf_counter() - start
            cost[count] = packets_s()
            print(
                f"{count:>6} rules: compiled {compiled:6.2f} s, set and read back {loaded:6.2f} s, "
                f"{cost[count] * 1e6:6.2f} µs a denied packet"
            )
    print(f"10,000 rules cost {cost[SIZES[-1]] / cost[SIZES[0]]:.2f} x what 10 cost")


if __name__ == "__main__":
    main()
