"""100,000 members at eight mediators, on paper: the real cores on a bus in memory, without TLS and sockets.

Prints for each event how many messages and bytes members get, what goes over the bus between mediators, and how much
processor time the cores take, in milliseconds and in units of one SHA-256 of a megabyte in the same run.
Run: python bench/scale.py [--members N] [--mediators N] [--shape NAME ...]. See docs/thousands.md for what it means.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.mediator.scalekit import Count, Host, Shape, World, hub_and_spokes, networks, sites, unit_s

PAGE = os.sysconf("SC_PAGE_SIZE")
NETWORK, SITE, SERVERS, GROUP = 5_000, 300, 3, 20
CHOSEN = 20
"""Members with which each small event is tried."""
DOCUMENTS = 2
SETTLE_S = 5.0
"""After a mediator's end: by then it counts as silent, and logins that waited for its word are through."""
COLUMNS = (
    "event",
    "messages",
    "bytes",
    "of presence",
    "on the bus",
    "bytes",
    "ms",
    "units",
    "ms of the busiest",
)


def shapes(members: int, size: int) -> dict[str, Shape]:
    """The shapes, by name. With fewer members there are fewer parts. `size`: members of a network."""
    return {
        "networks": networks(members, min(size, members)),
        "spokes": hub_and_spokes(members, min(SITE, members // 4), SERVERS),
        "groups": sites(members, GROUP),
    }


@dataclass
class Row:
    """What `events` events of one kind cost."""

    event: str
    events: int
    counts: list[Count]

    def cells(self, unit: float, mediators: int) -> list[str]:
        """One event's cost, as text."""
        by = self.events
        messages, size = (
            sum(count.messages for count in self.counts),
            sum(count.bytes for count in self.counts),
        )
        told = sum(count.to_members["presence"] for count in self.counts)
        bus = sum(count.bus.total() for count in self.counts)
        bus_bytes = sum(count.bytes_bus.total() for count in self.counts)
        cpu = sum(count.cpu for count in self.counts)
        busiest = sum(max(count.cpu_s.values(), default=0.0) for count in self.counts)
        assert all(len(count.cpu_s) <= mediators for count in self.counts)
        return [
            self.event,
            _number(messages / by),
            _number(size / by),
            _number(told / by),
            _number(bus / by),
            _number(bus_bytes / by),
            _number(cpu / by * 1e3),
            _number(cpu / by / unit),
            _number(busiest / by * 1e3),
            _number(max(count.longest_s for count in self.counts) * 1e3),
        ]


def _number(value: float) -> str:
    if value >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def resident() -> int:
    """Bytes of this process's resident memory, after a collection."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


class Run:
    """One shape, all events."""

    def __init__(self, shape: Shape, mediators: int, *, over_s: float, chosen: int, seed: int) -> None:
        self.shape, self.over_s, self.rows = shape, over_s, list[Row]()
        self.random = random.Random(seed)
        self.mediators = mediators
        before = resident()
        self.world = World(shape, mediators, at_once=False)
        self.own = resident() - before
        before = resident()
        self.world.start()
        self.held = (resident() - before) / mediators
        gc.freeze()
        self.chosen = [host for host in self.world.hosts if not shape.is_server(host.number)]
        self.chosen = self.random.sample(self.chosen, min(chosen, len(self.chosen)))

    def everything(self) -> None:
        """All events, in an order in which each leaves the world whole."""
        world = self.world
        before = resident()
        with self._flood("all log in for the first time", len(world.hosts)):
            world.everybody(self.over_s)
        self.connected = (resident() - before) / len(world.hosts)
        sensors = bool(self.shape.servers)
        self._come_and_go(self.chosen, "a sensor" if sensors else "a member")
        self._each("… has another address", [partial(world.move, host) for host in self.chosen])
        if sensors:
            self._come_and_go(world.hosts[: self.shape.servers], "a server")
        changed = [partial(world.change_address, host.number) for host in self.chosen[:DOCUMENTS]]
        self._each("the document changes one member", changed)
        gone = world.kill(world.nodes[0])
        with self._flood(f"one mediator ends, its {len(gone):,} members move", len(gone)):
            world.everybody(self.over_s)
            world.pass_time(SETTLE_S)
        world.restart_all()
        gc.freeze()
        with self._flood("all mediators restart, all log in", len(world.hosts)):
            world.everybody(self.over_s)

    def _come_and_go(self, hosts: list[Host], who: str) -> None:
        """Each of these goes, comes back, goes, and comes back as one that was never there."""
        world = self.world
        gone, back, first = list[Count](), list[Count](), list[Count]()
        for host in hosts:
            for view_known, coming in ((True, back), (False, first)):
                with world.counting() as count:
                    world.log_out(host)
                gone.append(count)
                if not view_known:
                    world.forget_view(host)
                with world.counting() as count:
                    world.log_in(host, world.nodes[world.home(host.number)])
                coming.append(count)
        self.rows += [
            Row(f"{who} logs out", len(gone), gone),
            Row(f"{who} logs in, and has its view", len(back), back),
            Row(f"{who} logs in for the first time", len(first), first),
        ]

    def _each(self, event: str, calls: Sequence[Callable[[], None]]) -> None:
        counts = []
        for call in calls:
            with self.world.counting() as count:
                call()
            counts.append(count)
        self.rows.append(Row(event, len(counts), counts))

    @contextmanager
    def _flood(self, event: str, members: int) -> Iterator[None]:
        began = time.monotonic()
        with self.world.counting() as count:
            yield
        assert self.world.online() == len(self.world.hosts), "somebody is not back"
        self.rows += [Row(event, 1, [count]), Row("… a member", members, [count])]
        print(f"  {event}: simulated in {time.monotonic() - began:.0f} s", flush=True)

    def show(self, unit: float) -> None:
        """Print the tables."""
        table = [COLUMNS, ("---",) * len(COLUMNS), *(row.cells(unit, self.mediators) for row in self.rows)]
        print("\n".join("| " + " | ".join(cells) + " |" for cells in table))
        count = self.shape.members
        print(
            f"memory: {self.held / count / 1e3:.2f} KB a mediator for each member of the document "
            f"({self.held / 1e6:.0f} MB a mediator), {self.connected / 1e3:.2f} KB for each member logged in, "
            "without its connection; of a process that has all mediators in it"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--members", type=int, default=100_000)
    parser.add_argument("--mediators", type=int, default=8)
    parser.add_argument(
        "--shape", nargs="+", choices=list(shapes(1000, 100)), default=list(shapes(1000, 100))
    )
    parser.add_argument("--size", type=int, default=NETWORK, help="members of a network without ACLs")
    parser.add_argument("--over", type=float, default=30.0, help="seconds over which all members come back")
    parser.add_argument(
        "--chosen", type=int, default=CHOSEN, help="members with which each small event is tried"
    )
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if len(arguments.shape) > 1:  # each in a process of its own, or memory would not be its own
        for name in arguments.shape:
            mine = [*sys.argv[1:], "--shape", name]
            subprocess.run([sys.executable, str(Path(__file__)), *mine], check=True)
        return
    (name,) = arguments.shape
    shape = shapes(arguments.members, arguments.size)[name]
    print(f"\n{shape.name}, {arguments.mediators} mediators (seed {arguments.seed})", flush=True)
    before = unit_s()
    run = Run(shape, arguments.mediators, over_s=arguments.over, chosen=arguments.chosen, seed=arguments.seed)
    run.everything()
    after = unit_s()
    run.show((before + after) / 2)
    print(f"a unit: {before * 1e3:.2f} ms before, {after * 1e3:.2f} ms after")


if __name__ == "__main__":
    main()
