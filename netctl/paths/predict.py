"""Classifies how a NAT allocates ports, from samples of fresh sockets, and predicts the next ports.

RFC 4787 §4.2 names some of the ways. Routers and carriers use four: the host's own port is kept, the next port is
taken, a random port of a small block, or a random port of all.
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
    """A fresh local port, and its mapped address as a server saw it."""

    local_port: int
    mapped: SocketAddress


@dataclass(frozen=True, slots=True)
class Allocation:
    """How ports are allocated, and the window of the next ones: `first`, `first + step`, … of `count` ports."""

    kind: AllocationKind
    address: str
    """The NAT's outside address, as most servers saw it."""
    first: int
    step: int
    count: int

    @property
    def last(self) -> int:
        """The last port of the window."""
        return self.first + (self.count - 1) * self.step


def allocation(samples: Sequence[Sample]) -> Allocation | None:
    """Classify samples, in the order of their requests; None: too few samples, or nothing to predict."""
    if len(samples) < c.MIN_SAMPLES:
        return None
    hosts = Counter(sample.mapped.host for sample in samples)
    address = hosts.most_common(1)[0][0]
    own = [sample for sample in samples if sample.mapped.host == address]
    if len(own) < c.MIN_SAMPLES:
        return None  # a pool whose address changes with every flow (RFC 4787 §4.1): nothing to predict
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
    """The step of a sequential NAT; None: not sequential. One jump is allowed, at the end of the NAT's range."""
    gaps = [after - before for before, after in pairwise(ports)]
    step, often = Counter(gaps).most_common(1)[0]
    if step == 0 or abs(step) > c.MAX_STEP or 2 * often < len(gaps):
        return None
    # Other hosts behind the NAT take ports in between: a few steps at once in the same direction are allowed.
    odd = [gap for gap in gaps if not 0 < gap * (1 if step > 0 else -1) <= abs(step) * c.SAMPLES]
    return step if len(odd) <= 1 else None


def _window(kind: AllocationKind, address: str, first: int, step: int, count: int) -> Allocation | None:
    """The part of a window within the valid ports; None: no port, since the NAT's start after a wrap is unknown."""
    room = (HIGHEST_PORT - first) // step if step > 0 else (first - 1) // -step
    if not 0 < first <= HIGHEST_PORT or room < 0:
        return None
    return Allocation(kind, address, first, step, min(count, room + 1))


def easy(address: SocketAddress) -> Nat:
    """The offer's NAT of a host with one outside address for all destinations (RFC 4787: endpoint-independent)."""
    return Nat("fixed", address.host, address.port)


def hard(found: Allocation) -> Nat | None:
    """The offer's NAT of a host whose NAT gives every destination another port; None: nothing can be guessed."""
    if found.kind == "kept":
        return None  # kept for fresh sockets, but not for ours: another host has the port
    return Nat(found.kind, found.address, found.first, found.step, found.count)


def guesses(nat: Nat, chance: Iterator[int]) -> Iterator[int]:
    """The ports to probe, the likeliest first: a window `GUESS_PASSES` times, or `BIRTHDAY_PROBES` different ports.

    `chance`: random numbers. Never more than `BIRTHDAY_PROBES` ports, independent of the peer's offer.
    """
    return islice(_guesses(nat, chance), c.BIRTHDAY_PROBES)


def _guesses(nat: Nat, chance: Iterator[int]) -> Iterator[int]:
    if nat.allocation != "random":
        ports = [nat.first + number * nat.step for number in range(min(nat.count, c.MAX_BLOCK))]
        usable = [port for port in ports if 0 < port <= HIGHEST_PORT]
        for _ in range(c.GUESS_PASSES):
            yield from usable
        if nat.allocation == "sequential":  # an earlier round's mapping may still exist
            earlier = (nat.first - number * nat.step for number in range(1, c.SEQUENTIAL_WINDOW + 1))
            yield from (port for port in earlier if 0 < port <= HIGHEST_PORT)
        return
    tried: set[int] = set()
    while len(tried) < min(c.BIRTHDAY_PROBES, nat.count):
        port = nat.first + next(chance) % nat.count
        if port not in tried and 0 < port <= HIGHEST_PORT:
            yield port
        tried.add(port)
