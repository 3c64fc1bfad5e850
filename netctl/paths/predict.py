"""How a NAT gives out ports, from what servers saw of fresh sockets, and which ports it will give next.

RFC 4787 §4.2 has names for some of it; routers and carriers know four ways: the host's own port is kept, the next
port is taken, a random one of a small block, or a random one of all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Literal

from netctl.model.addresses import SocketAddress
from netctl.paths import constants as c
from netctl.wire.control import Nat

AllocationKind = Literal["kept", "sequential", "block", "random"]
HIGHEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Sample:
    """A fresh local port and what a server saw of it."""

    local_port: int
    mapped: SocketAddress


@dataclass(frozen=True, slots=True)
class Allocation:
    """How ports are given out, and the window that the next ones lie in."""

    kind: AllocationKind
    address: str
    """The NAT's outside, as most servers saw it."""
    first: int
    step: int
    count: int

    @property
    def last(self) -> int:
        """The far end of the window."""
        return self.first + (self.count - 1) * self.step


def allocation(samples: Sequence[Sample]) -> Allocation | None:
    """Judge samples, in the order in which they were asked for; None: too few."""
    if len(samples) < c.MIN_SAMPLES:
        return None
    hosts = Counter(sample.mapped.host for sample in samples)
    address = hosts.most_common(1)[0][0]
    own = [sample for sample in samples if sample.mapped.host == address]
    if len(own) < c.MIN_SAMPLES:
        return None  # a pool of addresses that changes with every flow (RFC 4787 §4.1): nothing to predict
    ports = [sample.mapped.port for sample in own]
    if sum(sample.mapped.port == sample.local_port for sample in own) * 2 > len(own):
        return Allocation("kept", address, min(ports), 1, 1)
    step = _step(ports)
    if step is not None:
        return _window("sequential", address, ports[-1] + step, step, c.SEQUENTIAL_WINDOW)
    low, high = min(ports), max(ports)
    margin = c.BLOCK_MARGIN * -(-(high - low) // (len(ports) - 1))
    low, high = max(low - margin, min(low, c.LOWEST_PORT)), min(high + margin, HIGHEST_PORT)
    kind: AllocationKind = "block" if high - low < c.MAX_BLOCK else "random"
    return Allocation(kind, address, low, 1, high - low + 1)


def _step(ports: Sequence[int]) -> int | None:
    """The step of a NAT that counts; None when it does not. One jump is forgiven: the end of its range."""
    gaps = [after - before for before, after in pairwise(ports)]
    step, often = Counter(gaps).most_common(1)[0]
    if step == 0 or abs(step) > c.MAX_STEP or 2 * often < len(gaps):
        return None
    # Others behind the NAT take ports in between: a few steps at once, the same way.
    odd = [gap for gap in gaps if not 0 < gap * (1 if step > 0 else -1) <= abs(step) * c.SAMPLES]
    return step if len(odd) <= 1 else None


def _window(kind: AllocationKind, address: str, first: int, step: int, count: int) -> Allocation | None:
    """What of a window lies among the ports; at the end of all it is begun anew by nobody knows what."""
    room = (HIGHEST_PORT - first) // step if step > 0 else (first - 1) // -step
    if not 0 < first <= HIGHEST_PORT or room < 0:
        return None
    return Allocation(kind, address, first, step, min(count, room + 1))


def easy(address: SocketAddress) -> Nat:
    """What a host says whose outside is one address for everybody (RFC 4787: endpoint-independent mapping)."""
    return Nat("fixed", address.host, address.port)


def hard(found: Allocation) -> Nat | None:
    """What a host says whose NAT gives every destination another port; None: nothing that can be guessed."""
    if found.kind == "kept":
        return None  # kept for fresh sockets, and not for ours: another host has the port
    return Nat(found.kind, found.address, found.first, found.step, found.count)


def guesses(nat: Nat, chance: Iterator[int]) -> Iterator[int]:
    """Ports to probe, the likeliest first: a window `GUESS_PASSES` times, or `BIRTHDAY_PROBES` different ones.

    `chance` gives random numbers. Never more than `BIRTHDAY_PROBES`, whatever the peer says.
    """
    return islice(_guesses(nat, chance), c.BIRTHDAY_PROBES)


def _guesses(nat: Nat, chance: Iterator[int]) -> Iterator[int]:
    if nat.allocation != "random":
        ports = [nat.first + number * nat.step for number in range(min(nat.count, c.MAX_BLOCK))]
        usable = [port for port in ports if 0 < port <= HIGHEST_PORT]
        for _ in range(c.GUESS_PASSES):
            yield from usable
        if nat.allocation == "sequential":  # a mapping of an earlier round still holds: its port is behind us
            earlier = (nat.first - number * nat.step for number in range(1, c.SEQUENTIAL_WINDOW + 1))
            yield from (port for port in earlier if 0 < port <= HIGHEST_PORT)
        return
    tried: set[int] = set()
    while len(tried) < min(c.BIRTHDAY_PROBES, nat.count):
        port = nat.first + next(chance) % nat.count
        if port not in tried and 0 < port <= HIGHEST_PORT:
            yield port
        tried.add(port)
