"""Measure with real agents which path every pair of NAT kinds gets, and when.

The lab has two boxes of each kind, each with one host behind it. Every pair of kinds has its own network. All
networks are down at first: the agents run, are logged in, know their NAT and have no peers. One trial takes one
network up on both hosts and sends a packet every 20 ms each way. Its clock starts when the later host has the
network's address and sends its first packet. At the end the network is taken down, and the boxes' entries on the
pair are deleted.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from netctl.lab.internet import LOG_PATH, RUN_PATH, STATE_PATH, Lab, in_parallel, raise_lab, status_of
from netctl.lab.namespaces import Holder
from netctl.lab.nat import TABLE, NatKind
from netctl.lab.theory import Verdict, theory
from netctl.lab.topology import PUBLIC, Box
from netctl.lab.wiring import Network
from netctl.model.errors import EngineError
from netctl.system.files import write_atomic
from netctl.system.ourselves import module

DIRECT_KINDS = ("lan", "direct")
PATIENCE_S = {
    Verdict.DIRECT: 20.0,
    Verdict.PREDICTED: 25.0,
    Verdict.BIRTHDAY: 22.0,
    Verdict.RELAYED: 2.5,
}
"""Longest wait for a direct path, by verdict. A birthday attempt ends 16 s after its start."""
CONNECT_S = 20.0
"""Longest wait until both hosts have heard each other."""
COUNT_S = 0.5
"""Duration of the count of packets at the end: 25 each way."""
DOWN_S = 20.0
"""Longest wait until the network of a pair is down, and for their counts, in seconds."""
FEW_RELAYED = 20
"""Packets at the relay's host during the count that are not the pair's: STUN and keepalives of other agents, 19 at most
in measurements. One direction of the pair would add 25.
"""
MOST_STRAYS = 4
"""Most repeated counts while packets still pass the relay although both agents report a direct path."""
SECOND_ADDRESS = 50
"""Host number of the mediator's second address: agents need it to recognise NATs with address-dependent mapping."""
END_S = 5.0
"""Seconds that the program on a host has to end."""
READY_S = 60.0
"""Longest wait for an agent to reach its mediator, in seconds."""
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of one pair. Times in seconds count from the first packet of the later host."""

    one: str
    other: str
    run: int
    connected: bool
    paths: tuple[str, str]
    """The paths that the agents report at the end."""
    first_packet_s: float | None
    """Until both hosts have heard each other; None: never."""
    direct_s: float | None
    """Until both agents have chosen a direct path; None: never."""
    lost: int
    """Lost packets of the last half second, of about 50 both ways."""
    relayed: int
    """Packets that the relay's host received in that time, from all senders."""
    problem: str = ""
    strays: int = 0
    """Half seconds in which packets passed the relay after both agents had reported a direct path; `direct_s` then
    counts to the end of the last of them.
    """
    when: str = ""
    """Start of the trial, UTC, to the minute."""
    load: float = 0.0
    """Load of the machine at the start: mean of runnable processes over one minute."""

    @property
    def direct(self) -> bool:
        """Whether both agents report a direct path and the relay's host has not seen the packets."""
        return self.connected and all(path in DIRECT_KINDS for path in self.paths) and not self.problem

    def to_json(self) -> str:
        """The trial as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Trial:
        """A trial from such a line. Raises ValueError, TypeError or KeyError."""
        plain = json.loads(line)
        return cls(**{**plain, "paths": tuple(plain["paths"])})


def pairs_of(kinds: Sequence[NatKind]) -> list[tuple[NatKind, NatKind]]:
    """Every pair of kinds once, and each kind with itself."""
    return list(itertools.combinations_with_replacement(kinds, 2))


def host(kind: NatKind, side: int) -> str:
    """The name of the host behind the first (0) or second (1) box of a kind."""
    return f"{kind}-{'ab'[side]}"


def hosts_of(one: NatKind, other: NatKind) -> tuple[str, str]:
    """The two hosts of a pair."""
    return host(one, 0), host(other, 1)


def document_of(pairs: Sequence[tuple[NatKind, NatKind]]) -> tuple[str, str]:
    """The document and its sidecar. Both are JSON, which is YAML."""
    places = {
        name: kind for pair in pairs for name, kind in zip(hosts_of(*pair), pair, strict=True)
    }  # only hosts of a pair
    networks: dict[str, Any] = {}
    for index, (one, other) in enumerate(pairs):
        members = hosts_of(one, other)
        networks[network_of(index)] = {
            "mode": "routed",
            "ipv4": f"10.60.{index}.0/24",
            "members": list(members),
            "addresses": {name: address_of(index, side) for side, name in enumerate(members)},
        }
    for index, name in enumerate(places):
        networks[alone(name)] = {"mode": "routed", "ipv4": f"10.61.{index}.0/24", "members": [name]}
    document = {
        "apiVersion": "netctl/v1",
        "mediators": [{"url": "netctl://m1.example.net:8443", "identity": [_identity()]}],
        "members": {name: {"wireguard": _wireguard(name), "identity": _identity()} for name in places},
        "networks": networks,
    }
    boxes = {f"{name}-box": {"kind": str(kind), "members": [name]} for name, kind in places.items()}
    return json.dumps(document, indent=1), json.dumps({"nats": boxes}, indent=1)


def network_of(index: int) -> str:
    """The name of a pair's network."""
    return f"pair-{index}"


def alone(name: str) -> str:
    """The name of a network with one host as its only member: so the agent keeps its WireGuard port."""
    return f"{name}-alone"


def address_of(index: int, side: int) -> str:
    """The address of one host of a pair in the pair's network."""
    return f"10.60.{index}.{side + 1}"


def _wireguard(name: str) -> str:
    """A placeholder key: the lab's hosts make their own keys."""
    return base64.b64encode(hashlib.sha256(name.encode()).digest()).decode()


def _identity() -> str:
    raw = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    return f"ed25519:{base64.b64encode(raw).decode()}"


class Meeter:
    """The program `netctl.lab.meet` on one host. Puts its events into a queue, each with its side."""

    def __init__(self, lab: Lab, name: str) -> None:
        argv = module("netctl.lab.meet", f"{RUN_PATH}/agent.sock", LOG_PATH)
        self.name = name
        self._process: subprocess.Popen[str] = lab.node(name).popen(argv)
        self._side = 0
        self._events: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def begin(self, side: int, events: queue.SimpleQueue[tuple[int, dict[str, Any]]]) -> None:
        """Put further events into this queue."""
        self._side, self._events = side, events

    def tell(self, **order: Any) -> None:
        """Send the program an order."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:  # the program waits for an agent that does not answer
            self._process.kill()
            self._process.wait()
        self._reader.join(END_S)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"at": time.monotonic(), "event": "failed", "why": line.strip()}
            self._events.put((self._side, event))


class _Seen:
    """What both sides have reported of one trial."""

    def __init__(self) -> None:
        self.up: list[float | None] = [None, None]
        self.heard: list[float | None] = [None, None]
        self.direct: list[float | None] = [None, None]
        self.path = ["none", "none"]
        self.counts: list[dict[str, int] | None] = [None, None]
        self.down = [False, False]
        self.problem = ""

    def take(self, side: int, event: dict[str, Any]) -> None:
        """Record one event."""
        match event["event"]:
            case "up":
                self.up[side] = event["at"]
            case "heard":
                self.heard[side] = event["at"]
            case "path":
                self.path[side] = event["kind"]
                if event["kind"] not in DIRECT_KINDS:
                    self.direct[side] = None
                elif self.direct[side] is None:
                    self.direct[side] = event["at"]
            case "count":
                self.counts[side] = event
            case "down":
                self.down[side] = True
            case _:
                self.problem, self.down[side] = event.get("why", "failed"), True

    def since_up(self, times: list[float | None]) -> float | None:
        """Seconds from the later start to the later of both times; None: one is missing."""
        found = [at for at in (*self.up, *times) if at is not None]
        if len(found) < 4:
            return None
        return max(0.0, max(found[2:]) - max(found[:2]))


class Matrix:
    """The trials of these pairs in a lab. Valid inside `standing`."""

    def __init__(self, lab: Lab, pairs: Sequence[tuple[NatKind, NatKind]]) -> None:
        self.lab = lab
        self._pairs = list(pairs)
        self._meeters = {name: Meeter(lab, name) for name in lab.network.members}

    def close(self) -> None:
        """End the `meet` programs on the hosts."""
        for meeter in self._meeters.values():
            meeter.close()

    def trial(self, one: NatKind, other: NatKind, run: int) -> Trial:
        """Run one trial. Restarts both agents before a birthday attempt, as an agent may wait an hour for the next."""
        when, load = datetime.now(UTC).strftime("%Y-%m-%d %H:%M"), round(os.getloadavg()[0], 1)
        index = self._pairs.index((one, other))
        names = hosts_of(one, other)
        verdict = theory(one, other)
        if verdict is Verdict.BIRTHDAY:
            self._restart(names)
        self._forget(names)
        events: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()
        meeters = [self._meeters[name] for name in names]
        seen = _Seen()
        for side, meeter in enumerate(meeters):
            meeter.begin(side, events)
            meeter.tell(
                op="up",
                network=network_of(index),
                own=address_of(index, side),
                peer=address_of(index, 1 - side),
                name=names[1 - side],
            )
        self._until(events, seen, lambda: None not in seen.heard, CONNECT_S)
        self._until(events, seen, lambda: None not in seen.direct, PATIENCE_S[verdict])
        relayed, strays = self._count(meeters, events, seen), 0
        while None not in seen.direct and relayed > FEW_RELAYED and strays < MOST_STRAYS and not seen.problem:
            strays += 1  # the engines lag behind the agents' reports: not direct yet
            seen.direct = [time.monotonic()] * 2
            relayed = self._count(meeters, events, seen)
        for meeter in meeters:
            meeter.tell(op="down")
        self._until(events, seen, lambda: all(seen.down), DOWN_S)
        lost = sum(count["lost"] for count in seen.counts if count is not None)
        problem = seen.problem
        if not all(seen.down):
            problem = problem or "the network was not down in time"
        direct_s = seen.since_up(seen.direct)
        if direct_s is not None and relayed > FEW_RELAYED:
            problem = problem or f"{relayed} packets at the relay though both say that they are direct"
        first = seen.since_up(seen.heard)
        return Trial(
            str(one),
            str(other),
            run,
            first is not None,
            (seen.path[0], seen.path[1]),
            first,
            direct_s,
            lost,
            relayed,
            problem,
            strays,
            when,
            load,
        )

    def _count(
        self,
        meeters: list[Meeter],
        events: queue.SimpleQueue[tuple[int, dict[str, Any]]],
        seen: _Seen,
    ) -> int:
        """Count packets for COUNT_S at the hosts (into `seen`) and at the relay's host; returns the latter count."""
        self._until(events, seen, lambda: False, 0.1)  # until packets that are now at the relay have arrived
        for meeter in meeters:
            meeter.tell(op="count")
        before = self._at_relay()
        self._until(events, seen, lambda: False, COUNT_S)
        after = self._at_relay()
        seen.counts = [None, None]
        for meeter in meeters:
            meeter.tell(op="count")
        self._until(events, seen, lambda: None not in seen.counts, DOWN_S)
        return after - before

    def _until(
        self,
        events: queue.SimpleQueue[tuple[int, dict[str, Any]]],
        seen: _Seen,
        enough: Callable[[], bool],
        seconds: float,
    ) -> None:
        deadline = time.monotonic() + seconds
        while not enough() and not seen.problem and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                seen.take(*events.get(timeout=left))

    def _at_relay(self) -> int:
        """Packets that the mediator's host has received so far."""
        node = next(iter(self.lab.network.mediators.values()))
        return int(node.run(["cat", "/sys/class/net/eth0/statistics/rx_packets"]))

    def _box(self, name: str) -> Box:
        return next(
            box for box in self.lab.topology.boxes if any(member.name == name for member in box.members)
        )

    def _forget(self, names: tuple[str, str]) -> None:
        """Delete the boxes' flows with each other (conntrack(8)) and the entries of an address filter."""
        boxes = [self._box(name) for name in names]
        for box, other in (boxes, boxes[::-1]):
            outside = str(other.wan if other.kind.translates else other.members[0].address)
            script = "".join(
                f"conntrack -D -p udp --{end} {outside}; " for end in ("orig-dst", "orig-src", "reply-src")
            )
            if box.kind is NatKind.ADDRESS_RESTRICTED:
                script += f"nft flush set ip {TABLE} talked"
            self.lab.node(box.name).attempt(["sh", "-c", script])

    def _restart(self, names: tuple[str, str]) -> None:
        for name in names:
            self.lab.stop(name)
            self.lab.start_agent(name)
        for name in names:
            wait_logged_in(self.lab, name)


def wait_logged_in(lab: Lab, name: str) -> None:
    """Wait until the agent is logged in at its mediator. Raises EngineError."""
    deadline = time.monotonic() + READY_S
    while status_of(lab.node(name))["mediator"]["state"] != "connected":
        if time.monotonic() > deadline:
            raise EngineError(f"{name} has not reached its mediator within {READY_S:.0f} s")
        time.sleep(POLL_S)


@contextlib.contextmanager
def standing(
    directory: Path, pairs: Sequence[tuple[NatKind, NatKind]], progress: Callable[[str], None]
) -> Iterator[Matrix]:
    """A lab with these pairs: all agents logged in, every pair's network down."""
    document, sidecar = document_of(pairs)
    path = directory / "matrix.yaml"
    write_atomic(path, document)
    write_atomic(path.with_name("matrix.lab.yaml"), sidecar)
    down = json.dumps({"everything": False, "networks": [network_of(index) for index in range(len(pairs))]})

    second = str(PUBLIC[SECOND_ADDRESS])

    def wired(network: Network) -> None:
        for node in network.members.values():
            node.write(f"{STATE_PATH}/down.json", down)
        for node in network.mediators.values():
            node.run(["ip", "addr", "add", f"{second}/{PUBLIC.prefixlen}", "dev", "eth0"])

    holder = Holder.start()
    try:
        lab = raise_lab(holder, path, progress, wired=wired, stun_also=second)
        in_parallel(lambda name: wait_logged_in(lab, name), list(lab.network.members))
        matrix = Matrix(lab, pairs)
        try:
            yield matrix
        finally:
            matrix.close()
    finally:
        holder.destroy()
