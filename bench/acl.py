"""Measure the loading of ACLs, and a new flow's cost with few and many rules: `python bench/acl.py` (as root).

Every packet is denied, so each is a new flow that passes the whole ruleset. The last line of the first part is the
ratio of 10,000 rules to 10, medians of one run. The second part measures the guards' cost for unrelated packets.
"""

from __future__ import annotations

import json
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from ipaddress import ip_address, ip_network
from pathlib import Path

from netctl.engine.filter.nftables import Nftables
from netctl.engine.filter.ruleset import render
from netctl.model.document import PortRange
from netctl.model.hoststate import FilterRule, FilterTable, Guards

RUNS, PACKETS = 5, 10_000
ROUNDS = 5
"""Rounds with and without guards in turn, as the machine's speed changes during the measurement."""
SIZES = (10, 1_000, 10_000)
INSIDE = "NETCTL_BENCH_INSIDE"
RECEIVER, SENDER = "10.0.0.1", "10.0.3.200"


def table(count: int) -> FilterTable:
    """A table of `count` rules to one receiver, each for its own port and some of a thousand members, IPv4 and IPv6."""
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


def guarded() -> FilterTable:
    """A table with guards of both modes in both IP versions, some own addresses, and a gateway's LAN."""
    pools = {ip_network(text) for text in ("10.8.0.0/24", "10.9.0.0/24", "fd00:8::/64", "fd00:9::/64")}
    own = {ip_network(text) for text in ("10.8.0.2/32", "10.9.0.2/32", "fd00:8::2/128", "fd00:9::2/128")}
    guards = Guards(
        sources=frozenset(pools),
        destinations=frozenset(own),
        leases=frozenset(prefix.network_address for prefix in own),
        lans=frozenset({ip_network("192.168.77.0/24")}),
        remote=frozenset(pools),
        vnis=frozenset({7}),
        listen_port=51820,
    )
    return FilterTable(frozenset({"nctl0", "nseg00000001"}), (), guards=guards)


def passing_s() -> float:
    """Seconds for one UDP packet over Ethernet to a closed port, sent and received by one processor."""
    said = subprocess.run(["ip", "-j", "link", "show", "ether1"], capture_output=True, check=True).stdout
    mac = bytes.fromhex(json.loads(said)[0]["address"].replace(":", ""))
    data = b"x" * 1000
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(data), 1, 0, 64, 17, 0)
    head += ip_address("192.168.50.9").packed + ip_address("192.168.50.1").packed
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:]
    frame = mac + bytes(6) + b"\x08\x00" + head + struct.pack("!HHHH", 4000, 4001, 8 + len(data), 0) + data
    taken = []
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(("192.168.50.1", 4001))
        sender.bind(("ether0", 0))
        for _ in range(RUNS):
            start = time.perf_counter()
            for _ in range(PACKETS):
                sender.send(frame)
            taken.append((time.perf_counter() - start) / PACKETS)
    return statistics.median(taken)


def guards() -> None:
    """Print the guards' cost, compared with a table with connection tracking only."""
    for command in (
        "link add ether0 type veth peer name ether1",
        "link set ether0 up",
        "link set ether1 up",
        "addr add 192.168.50.1/24 dev ether1",
        "route add 192.168.50.9/32 dev ether1",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    costs: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        nftables = Nftables(Path(folder) / "guards.json")
        for _ in range(ROUNDS):
            for name, wanted in (("without", FilterTable(frozenset(), ())), ("with", guarded())):
                nftables.set(wanted)
                costs.setdefault(name, []).append(passing_s())
    without, with_ = (statistics.median(costs[name]) for name in ("without", "with"))
    print(
        f"a packet of others: {without * 1e6:.2f} µs without guards, {with_ * 1e6:.2f} µs with: "
        f"{(with_ - without) * 1e9:.0f} ns, {with_ / without:.2f} x"
    )


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
    """Measure in a separate network namespace."""
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
    guards()


if __name__ == "__main__":
    main()
