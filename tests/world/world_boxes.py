"""Boxes between a host and the internet as RFC 4787 describes them: mapping, filtering, allocation of ports.

What a kind allows is said twice on purpose: by `Box`, which does it packet by packet, and by `theory`, which knows
nothing of packets. The names are those of the boxes in `netctl lab`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from netctl.model.addresses import SocketAddress

TIMEOUT_S = 120.0
"""RFC 4787 REQ-5: not below two minutes."""
SHORT_TIMEOUT_S = 30.0
"""What many boxes do nevertheless."""
BLOCK_PORTS = 128
TRIES = 5000
"""A free port out of many is found at once; a block in which none is found is full."""


class Depends(Enum):
    """What of the other end a mapping or a filter depends on (RFC 4787 §4.1, §5)."""

    NOTHING = "endpoint-independent"
    ADDRESS = "address-dependent"
    PORT = "address and port-dependent"


class Ports(Enum):
    """How the next port is found (§4.2)."""

    KEPT = "kept"
    COUNTED = "counted in a range of the box's own"
    BLOCK = "random, within a small block"
    RANDOM = "random"


@dataclass(frozen=True)
class Kind:
    """A kind of box."""

    name: str
    mapping: Depends = Depends.NOTHING
    filtering: Depends = Depends.PORT
    ports: Ports = Ports.KEPT
    translates: bool = True
    blocked: bool = False


KINDS = {
    kind.name: kind
    for kind in (
        Kind("open", filtering=Depends.NOTHING, translates=False),
        Kind("firewall", translates=False),
        Kind("full-cone", filtering=Depends.NOTHING),
        Kind("address-restricted", filtering=Depends.ADDRESS),
        Kind("port-restricted"),
        Kind("port-changed", ports=Ports.COUNTED),
        Kind("address-dependent", mapping=Depends.ADDRESS, ports=Ports.RANDOM),
        Kind("symmetric-random", mapping=Depends.PORT, ports=Ports.RANDOM),
        Kind("symmetric-sequential", mapping=Depends.PORT, ports=Ports.COUNTED),
        Kind("port-block", mapping=Depends.PORT, ports=Ports.BLOCK),
        Kind("symmetric-full-cone", mapping=Depends.PORT, filtering=Depends.NOTHING, ports=Ports.RANDOM),
        Kind("udp-blocked", blocked=True),
    )
}


@dataclass
class Flow:
    """A mapping: an outside port, whose it is, and to whom it has sent and when."""

    inner: SocketAddress
    used: float
    sent: dict[SocketAddress, float] = field(default_factory=dict)


class Box:
    """One box. Bindings live by traffic in both directions, as connection tracking has them."""

    def __init__(
        self,
        kind: Kind,
        public: str,
        chance: random.Random,
        now: Callable[[], float],
        *,
        hairpin: bool = False,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.kind = kind
        self.public = public
        self.hairpin = hairpin
        self._chance = chance
        self._now = now
        self._timeout_s = timeout_s
        self._flows: dict[int, Flow] = {}
        self._ports: dict[tuple[SocketAddress, object], int] = {}
        self._answering: dict[tuple[SocketAddress, SocketAddress], int] = {}
        """Flows that began outside: what answers them leaves by the port that they came to."""
        self._next = chance.randrange(20000, 40000)
        self._blocks: dict[str, int] = {}
        """Each subscriber has a block of its own."""

    def __len__(self) -> int:
        """Live mappings."""
        return sum(self._alive(port) is not None for port in list(self._flows))

    def _alive(self, port: int) -> Flow | None:
        flow = self._flows.get(port)
        if flow is not None and self._now() - flow.used > self._timeout_s:
            del self._flows[port]
            return None
        return flow

    def outbound(self, source: SocketAddress, destination: SocketAddress) -> SocketAddress | None:
        """As who a packet goes on; None: it does not."""
        if self.kind.blocked:
            return None
        port = self._port(source, destination)
        if port is None:
            return None
        flow = self._alive(port)
        if flow is None or flow.inner != source:
            flow = self._flows[port] = Flow(source, self._now())
        flow.used = flow.sent[destination] = self._now()
        return SocketAddress(self.public if self.kind.translates else source.host, port)

    def _port(self, source: SocketAddress, destination: SocketAddress) -> int | None:
        if not self.kind.translates:
            return source.port
        answering = self._answering.get((source, destination))
        if answering is not None and (flow := self._alive(answering)) is not None and flow.inner == source:
            return answering
        part: object = {
            Depends.NOTHING: None,
            Depends.ADDRESS: destination.host,
            Depends.PORT: destination,
        }[self.kind.mapping]
        port = self._ports.get((source, part))
        if port is None or (flow := self._alive(port)) is None or flow.inner != source:
            port = self._fresh(source)
            if port is not None:
                self._ports[source, part] = port
        return port

    def _fresh(self, source: SocketAddress) -> int | None:
        """A port for a new mapping; None: the subscriber's block is full."""
        if self.kind.ports is Ports.KEPT and self._alive(source.port) is None:
            return source.port
        first = self._blocks.setdefault(source.host, self._chance.randrange(20000, 60000))
        for _ in range(TRIES):
            match self.kind.ports:
                case Ports.RANDOM:
                    port = self._chance.randint(1024, 65535)
                case Ports.BLOCK:
                    port = first + self._chance.randrange(BLOCK_PORTS)
                case Ports.COUNTED | Ports.KEPT:
                    port, self._next = self._next, self._next + 1
            if self._alive(port) is None:
                return port
        return None

    def inbound(self, source: SocketAddress, port: int) -> SocketAddress | None:
        """To whom inside a packet goes; None: it does not."""
        if self.kind.blocked:
            return None
        if not self.kind.translates and self.kind.filtering is Depends.NOTHING:
            return SocketAddress(self.public, port)
        flow = self._alive(port)
        if flow is None or not self._passes(flow, source):
            return None
        flow.used = self._now()
        self._answering[flow.inner, source] = port
        return flow.inner

    def _passes(self, flow: Flow, source: SocketAddress) -> bool:
        match self.kind.filtering:
            case Depends.NOTHING:
                return True
            case Depends.ADDRESS:
                return any(to.host == source.host and self._fresh_word(at) for to, at in flow.sent.items())
            case Depends.PORT:
                return source in flow.sent and self._fresh_word(flow.sent[source])

    def _fresh_word(self, at: float) -> bool:
        return self._now() - at <= self._timeout_s

    def forget(self) -> None:
        """All flows are gone (a reboot, a flushed connection tracking)."""
        self._flows.clear()
        self._ports.clear()
        self._answering.clear()

    def move(self, public: str) -> None:
        """Another address outside; flows are gone with the old one."""
        self.forget()
        self.public = public


class Way:
    """The boxes in front of a host, its own first. Hosts of one home share one object."""

    def __init__(
        self,
        boxes: Sequence[Box],
        *,
        isolated: bool = False,
        blocked: Callable[[SocketAddress], bool] = lambda other: False,
    ) -> None:
        self.boxes = tuple(boxes)
        self.isolated = isolated
        """Hosts of the home do not see each other (a guest network)."""
        self.blocked = blocked

    @property
    def public(self) -> str:
        """The address that the internet knows."""
        return self.boxes[-1].public

    def outbound(self, source: SocketAddress, destination: SocketAddress) -> SocketAddress | None:
        """Through all boxes to the internet, or back in at the last one where that turns packets around."""
        if destination.host == self.public and not self.boxes[-1].hairpin:
            return None
        if self.blocked(destination):
            return None
        outside: SocketAddress | None = source
        for box in self.boxes:
            outside = box.outbound(outside, destination) if outside is not None else None
        return outside

    def inbound(self, source: SocketAddress, port: int) -> SocketAddress | None:
        """From the internet to a host."""
        if self.blocked(source):
            return None
        inner = self.boxes[-1].inbound(source, port)
        for box in reversed(self.boxes[:-1]):
            inner = (
                box.inbound(source, inner.port) if inner is not None and inner.host == box.public else None
            )
        return inner


def seen(boxes: Sequence[Kind]) -> Kind:
    """Several boxes in a row as one: it maps as the worst and filters as the strictest of them."""
    order = list(Depends)
    changed = [box.ports for box in boxes if box.ports is not Ports.KEPT]
    return Kind(
        " behind ".join(box.name for box in boxes),
        mapping=max((box.mapping for box in boxes), key=order.index),
        filtering=max((box.filtering for box in boxes), key=order.index),
        ports=changed[-1] if changed else Ports.KEPT,
        translates=any(box.translates for box in boxes),
        blocked=any(box.blocked for box in boxes),
    )


class Verdict(Enum):
    """What can be had between two kinds."""

    DIRECT = "direct"
    PREDICTED = "direct, if the next port is guessed out of a few"
    BIRTHDAY = "direct, if two random draws meet"
    RELAYED = "relayed"


def theory(one: Kind, other: Kind) -> Verdict:
    """By RFC 4787's words alone: the mediator tells both the port that it sees, and both send at once."""
    if one.blocked or other.blocked:
        return Verdict.RELAYED
    if Depends.NOTHING in (one.filtering, other.filtering):
        return (
            Verdict.DIRECT
        )  # the port that the mediator sees lets everybody in, and the answer leaves by it
    hard = [kind for kind in (one, other) if kind.mapping is not Depends.NOTHING]
    if not hard:
        return Verdict.DIRECT
    if len(hard) == 2:
        return Verdict.RELAYED
    easy = other if hard[0] is one else one
    if easy.filtering is Depends.ADDRESS:
        return Verdict.DIRECT  # from whatever port the other comes
    return Verdict.PREDICTED if hard[0].ports in (Ports.COUNTED, Ports.BLOCK) else Verdict.BIRTHDAY
