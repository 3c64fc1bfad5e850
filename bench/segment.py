"""Unicast between two members of a lan network beside a routed one.

Run as root: python bench/segment.py [--runs N] [--seconds N]. A whole small internet of the example lan-party.yaml
(agents, mediator, NATs), laptop to nas over their direct path, with the rulesets of both networks in force; both ways
take turns. Medians of Gbit/s (TCP, iperf3) and the ratio to the routed one. The port is 22, which the example's ACL
lets pass. What goes through the segment device itself is a column of bench_dataplane.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from netctl.lab.demo import unconnected
from netctl.lab.internet import Lab, raise_lab, status_of, statuses_of
from netctl.lab.namespaces import Holder, check_machine

EXAMPLE = Path(__file__).parents[1] / "examples" / "lan-party.yaml"
PATIENCE_S = 60.0
PORT = "22"


def wait_direct(lab: Lab) -> None:
    """Until laptop and nas have a direct path. Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        paths = {peer["name"]: peer["path"] for peer in status_of(lab.node("laptop"))["peers"]}
        connected = not unconnected(lab.document, statuses_of(lab.network.members))
        if connected and paths.get("nas") in ("direct", "lan"):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"laptop's path to nas is {paths.get('nas')}")
        time.sleep(0.5)


def measure(lab: Lab, address: str, seconds: int) -> float:
    """Gbit/s of one TCP stream at the receiver."""
    server = lab.node("nas").popen(["iperf3", "-s", "-1", "-p", PORT, "-B", address])
    try:
        time.sleep(0.3)
        client = ["iperf3", "-c", address, "-p", PORT, "-J", "-t", str(seconds), "-C", "cubic"]
        end = json.loads(lab.node("laptop").run(client))["end"]
        return float(end["sum_received"]["bits_per_second"]) / 1e9
    finally:
        server.terminate()
        server.wait(10)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    arguments = parser.parse_args()
    check_machine()
    holder = Holder.start()
    try:
        lab = raise_lab(holder, EXAMPLE, lambda text: print(f"  {text}", file=sys.stderr))
        wait_direct(lab)
        networks = status_of(lab.node("nas"))["networks"]
        ways = {
            "routed": networks["office"]["addresses"][0],
            "lan, unicast": networks["lan-party"]["addresses"][0],
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.runs):
            for name, address in ways.items():
                taken[name].append(measure(lab, address, arguments.seconds))
    finally:
        holder.destroy()
    medians = {name: statistics.median(found) for name, found in taken.items()}
    print("| way | Gbit/s | ÷ routed |\n|---|---|---|")
    for name, value in medians.items():
        print(f"| {name} | {value:.2f} | {value / medians['routed']:.2f} |")


if __name__ == "__main__":
    main()
