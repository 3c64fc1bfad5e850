"""netctl-wg against wireguard-go: two namespaces over veth, iperf3 (TCP cubic), medians, ratios of the same run.

Run as root: python bench/bench_dataplane.py [--quick] [--no-offload] [--runs N] [--seconds N] [--peer PROGRAM]...
Each --peer is a program: nebula, fastd, openvpn, tincd, edge (n2n), or anything that is started as wireguard-go is, so
any version of it can stand beside; NAME=PATH gives it a name in the table. The programs take
turns run by run, so a machine that slows down slows all of them. Prints a markdown table, absolute and as ratios.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import vpns

from netctl.tunnel.primitives import public_key

PREFIX = f"dpb{os.getpid()}"
LINK = "dpb0"
PORT = 51940
OURS = str(Path(sys.executable).with_name("netctl-wg"))
OUTSIDE = ("192.0.2.1", "192.0.2.2")
INSIDE = ("10.78.0.1", "10.78.0.2")
SEGMENT = ("10.79.0.1", "10.79.0.2")
PINGS = 200
COLUMNS = {
    "TCP Gbit/s": "forward",
    "reverse": "reverse",
    "4 streams": "four",
    "TCP over VXLAN": "vxlan",
    "64 B kpps": "kpps",
    "ping µs": "ping",
    "ping p99 µs": "ping_p99",
    "RSS MB": "rss",
    "CPU µs a packet": "cost",
}
LESS_IS_BETTER = frozenset({"ping", "ping_p99", "rss", "cost"})
PAYLOAD = 1368
"""Payload bytes of a TCP packet of 1,420 bytes with timestamps: the unit of `cost` for every program."""


def run(*argv: str, text: str | None = None) -> str:
    """Run a command; returns its output. Raises CalledProcessError."""
    return subprocess.run(argv, check=True, capture_output=True, text=True, input=text, timeout=120).stdout


def inside(side: int, *argv: str) -> list[str]:
    """The command line that runs `argv` in one of the two namespaces."""
    return ["ip", "netns", "exec", f"{PREFIX}-{side}", *argv]


@dataclass
class Program:
    """A row of the table. `path` None: plain veth."""

    name: str
    path: str | None


@contextlib.contextmanager
def namespaces(no_offload: bool) -> Iterator[None]:
    """Two namespaces with a veth cable between them."""
    try:
        for side in (0, 1):
            run("ip", "netns", "add", f"{PREFIX}-{side}")
            run(*inside(side, "ip", "link", "set", "lo", "up"))
        run(*inside(0, "ip", "link", "add", "eth0", "type", "veth", "peer", "eth0", "netns", f"{PREFIX}-1"))
        for side in (0, 1):
            run(*inside(side, "ip", "address", "add", f"{OUTSIDE[side]}/24", "dev", "eth0"))
            run(*inside(side, "ip", "link", "set", "eth0", "up"))
            if no_offload:
                run(*inside(side, "ethtool", "-K", "eth0", "tso", "off", "gso", "off", "gro", "off"))
                with contextlib.suppress(subprocess.CalledProcessError):  # not every kernel has it on veth
                    run(*inside(side, "ethtool", "-K", "eth0", "tx-udp-segmentation", "off"))
        yield
    finally:
        for side in (0, 1):
            subprocess.run(["ip", "netns", "del", f"{PREFIX}-{side}"], check=False, capture_output=True)


@contextlib.contextmanager
def tunnel(program: Program) -> Iterator[tuple[str, list[int]]]:
    """Start a program on both ends: (the address to measure, the pids). Ends them at exit."""
    if program.path is None:
        yield OUTSIDE[1], []
        return
    if (start := vpns.kind(program.path)) is not None:
        world = vpns.World(inside, OUTSIDE, INSIDE)
        with tempfile.TemporaryDirectory() as name, start(program.path, world, Path(name)) as pids:
            wait_for_answer()
            yield INSIDE[1], pids
        return
    links = [
        f"{LINK}{os.getpid() % 10000}{'ab'[side]}" for side in (0, 1)
    ]  # both namespaces share the sockets' directory
    keys = [os.urandom(32), os.urandom(32)]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for side in (0, 1):
            command = inside(side, program.path, "-f", links[side])
            started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            wait_for_socket(links[side])
            other = base64.b64encode(public_key(keys[1 - side])).decode()
            own = base64.b64encode(keys[side]).decode()
            wg = inside(side, "wg", "set", links[side], "listen-port", str(PORT), "private-key", "/dev/stdin")
            endpoint = f"{OUTSIDE[1 - side]}:{PORT}"
            run(*wg, "peer", other, "allowed-ips", f"{INSIDE[1 - side]}/32", "endpoint", endpoint, text=own)
            run(*inside(side, "ip", "address", "add", f"{INSIDE[side]}/24", "dev", links[side]))
            run(*inside(side, "ip", "link", "set", links[side], "mtu", "1420", "up"))
        run(*inside(0, "ping", "-c", "1", "-W", "5", INSIDE[1]))
        yield INSIDE[1], [process.pid for process in started]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(10)


def wait_for_answer() -> None:
    """Wait until the other end answers inside the tunnel. Raises CalledProcessError after 20 s."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.CalledProcessError):
            run(*inside(0, "ping", "-c", "1", "-W", "1", INSIDE[1]))
            return
        time.sleep(0.2)  # a ping without a route fails at once
    run(*inside(0, "ping", "-c", "1", "-W", "1", INSIDE[1]))


def wait_for_socket(link: str) -> None:
    """Wait until wg can talk to the link. Raises TimeoutError."""
    deadline = time.monotonic() + 10
    while not Path(f"/var/run/wireguard/{link}.sock").exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{link} did not start")
        time.sleep(0.02)


@contextlib.contextmanager
def segment(address: str) -> Iterator[str]:
    """A VXLAN device over the tunnel or cable, as for the segment of a lan network; yields the address to measure."""
    ends = INSIDE if address == INSIDE[1] else OUTSIDE
    try:
        for side in (0, 1):
            link = ["vxlan0", "type", "vxlan", "id", "7", "dstport", "4789", "local", ends[side]]
            run(*inside(side, "ip", "link", "add", *link, "remote", ends[1 - side]))
            run(*inside(side, "ip", "address", "add", f"{SEGMENT[side]}/24", "dev", "vxlan0"))
            run(*inside(side, "ip", "link", "set", "vxlan0", "mtu", "1350", "up"))
        yield SEGMENT[1]
    finally:
        for side in (0, 1):
            run(*inside(side, "ip", "link", "del", "vxlan0"))


def iperf(address: str, seconds: int, *options: str) -> dict[str, dict[str, float]]:
    """Run iperf3 once; returns the sums at its end."""
    server = subprocess.Popen(
        inside(1, "iperf3", "-s", "-1", "-B", address), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        time.sleep(0.3)
        client = inside(0, "iperf3", "-c", address, "-J", "-t", str(seconds), *options)
        result: dict[str, dict[str, float]] = json.loads(run(*client))["end"]
        return result
    finally:
        server.terminate()
        server.wait(10)


def measure(program: Program, seconds: int) -> dict[str, float]:
    """The values of one row in one run."""
    with tunnel(program) as (address, pids):
        tcp = ["-C", "cubic"]
        before = sum(map(busy_s, pids))
        forward = iperf(address, seconds, *tcp)["sum_received"]
        row = {
            "forward": forward["bits_per_second"] / 1e9,
            "cost": (sum(map(busy_s, pids)) - before) * 1e6 / (forward["bytes"] / PAYLOAD),
            "reverse": iperf(address, seconds, *tcp, "-R")["sum_received"]["bits_per_second"] / 1e9,
            "four": iperf(address, seconds, *tcp, "-P", "4")["sum_received"]["bits_per_second"] / 1e9,
        }
        with segment(address) as inner:
            row["vxlan"] = iperf(inner, seconds, *tcp)["sum_received"]["bits_per_second"] / 1e9
        udp = iperf(address, seconds, "-u", "-l", "64", "-b", "0")["sum"]
        row["kpps"] = (udp["packets"] - udp["lost_packets"]) / udp["seconds"] / 1e3
        pings = run(*inside(0, "ping", "-i", "0.005", "-c", str(PINGS), address))
        times = sorted(float(value) * 1e3 for value in re.findall(r"time=([\d.]+)", pings))
        row["ping"], row["ping_p99"] = statistics.median(times), times[int(len(times) * 0.99) - 1]
        row["rss"] = max((resident_mb(pid) for pid in pids), default=0.0)
        return row


def busy_s(pid: int) -> float:
    """Processor time of a program's threads so far. Both ends together send and receive a packet."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Peak resident memory in MB. `ip netns exec` becomes the program, so the pid is the program's."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown: figures, then netctl-wg's ratio to each other row; above 1 netctl-wg is better."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, row in rows.items():
        cells = [f"{row[key]:.2f}" if row[key] < 100 else f"{row[key]:.0f}" for key in COLUMNS.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    ours = rows["netctl-wg"]
    for name, row in rows.items():
        if row is ours:
            continue
        ratios = [
            (row[key] / ours[key] if key in LESS_IS_BETTER else ours[key] / row[key])
            if row[key] and ours[key]
            else float("nan")
            for key in COLUMNS.values()
        ]
        lines.append(f"| netctl-wg ÷ {name} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one run of one second")
    parser.add_argument("--no-offload", action="store_true", help="no segmentation offload on the veth")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--peer", action="append", help="default: wireguard-go")
    arguments = parser.parse_args()
    runs, seconds = (1, 1) if arguments.quick else (arguments.runs, arguments.seconds)
    programs = [Program("netctl-wg", OURS)]
    for text in arguments.peer or ["wireguard-go"]:
        name, _, path = text.rpartition("=")
        found = shutil.which(path)
        if found is None:
            parser.error(f"there is no {path}")
        programs.append(Program(name or Path(path).name, found))
    programs.append(Program("plain veth", None))
    if arguments.no_offload and shutil.which("ethtool") is None:
        parser.error("--no-offload needs ethtool")
    taken: dict[str, list[dict[str, float]]] = {program.name: [] for program in programs}
    with namespaces(arguments.no_offload):
        for number in range(runs):
            for program in programs:
                taken[program.name].append(measure(program, seconds))
                sys.stderr.write(f"run {number + 1}/{runs}: {program.name}\n")
    medians = {
        name: {key: statistics.median(row[key] for row in rows) for key in COLUMNS.values()}
        for name, rows in taken.items()
    }
    sys.stdout.write(
        f"medians of {runs} runs of {seconds} s; in the ratios, above 1 is better for netctl-wg\n\n"
    )
    sys.stdout.write(table(medians) + "\n")


if __name__ == "__main__":
    main()
