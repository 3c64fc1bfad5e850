"""Learns this host's outside addresses, and how its NAT allocates ports and filters packets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from netctl.model.addresses import SocketAddress
from netctl.model.deadlines import earliest
from netctl.paths import constants as c
from netctl.paths.behaviour import DEPENDENT, Behaviour, behaviour
from netctl.paths.discovery import Discovery
from netctl.paths.effects import Effect
from netctl.paths.filtering import Filtering4787, FilterTest
from netctl.paths.portjudge import Verdict
from netctl.paths.predict import Allocation, easy, hard
from netctl.paths.sampler import Sampler
from netctl.wire.control import Nat


class Outside:
    """Discovery on the WireGuard port, and tests from fresh sockets of the NAT's port allocation and filter."""

    def __init__(self, rng: Callable[[int], bytes], new_batch: Callable[[], int]) -> None:
        self.discovery = Discovery(rng)
        self._sampler = Sampler(rng, new_batch)
        self._filter = FilterTest(rng, new_batch)
        self._filter_of: SocketAddress | None = None
        """The outside address whose filter was tested last."""
        self._asked = True
        """Whether fresh samples are wanted. Samples are taken once for each outside address, with any NAT."""
        self._asked_at = float("-inf")
        self._sampled_of: str | None = None
        """The outside address whose ports were sampled last."""
        self._kept: dict[bool, tuple[tuple[object, ...], Behaviour]] = {}
        """The last behaviour of each family, and what it follows from: pairs and the shell ask at each event."""
        self._doubted_at: float | None = None
        """When fresh sockets last tested whether UDP passes from them; None: the shared port is answered."""

    @property
    def allocation(self) -> Allocation | None:
        """How our NAT allocates ports; None: not known."""
        return self._sampler.found

    @property
    def filtering(self) -> Filtering4787:
        """Which senders the IPv4 NAT or firewall admits."""
        return self._filter.found

    def behaviour(self, *, ipv6: bool) -> Behaviour:
        """The behaviour of the NAT for one address family."""
        by = self.discovery.change, self.discovery.own, self._sampler.answers
        kept = self._kept.get(ipv6)
        if kept is None or kept[0] != by:
            kept = self._kept[ipv6] = by, self._behaviour(ipv6=ipv6)
        return kept[1]

    def _behaviour(self, *, ipv6: bool) -> Behaviour:
        port = next((one.port for one in sorted(self.discovery.own)), None)
        seen = behaviour(self.discovery.answers(ipv6=ipv6), self.discovery.own, port)
        if ipv6 or seen.mapping != "endpoint-independent" or seen.port_kept:
            return seen
        # With a small block, two servers may see the same port by chance: a fresh socket repeats the test.
        fresh = behaviour(self._sampler.answers, self.discovery.own, None).mapping
        return replace(seen, mapping=fresh) if fresh in DEPENDENT else seen

    def port_verdict(self) -> Verdict:
        """The verdict on the shared port over IPv4, in comparison with fresh sockets."""
        if self.discovery.silent(ipv6=False):
            return "dead" if self._doubted_at is not None and self._sampler.reached else "fit"
        found, kept = self._sampler.found, self.behaviour(ipv6=False).port_kept
        return "shared" if kept is False and found is not None and found.kind == "kept" else "fit"

    def nat(self) -> Nat | None:
        """The NAT's description for an offer; None: not known, or nothing that can be predicted."""
        four = self.behaviour(ipv6=False)
        if four.mapping in ("none", "endpoint-independent"):
            return easy(four.mapped[0])
        found = self._sampler.found
        return hard(found) if found is not None and four.mapping in DEPENDENT else None

    def ask(self, now: float) -> None:
        """Prepare an offer: behind a symmetric NAT its prediction needs fresh samples."""
        if now - self._asked_at >= c.SAMPLE_REST and self._sampler.batch is None:
            self._asked = True

    def ready(self, now: float) -> bool:
        """Whether an offer need not wait any longer for answers or samples."""
        if not self.discovery.ready(now):
            return False
        four, sampling = self.behaviour(ipv6=False), self._sampler.batch is not None
        if four.mapping in DEPENDENT:
            return not (sampling or self._asked)
        return not (
            sampling and four.port_kept is False
        )  # the samples may show that the NAT is symmetric after all

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        if self._sampler.batch is None and self._filter.batch is None:
            return self.discovery.next_timer()
        return earliest(self.discovery.next_timer(), self._sampler.next_timer(), self._filter.next_timer())

    def handle_timer(self, now: float) -> list[Effect]:
        """The requests that are due."""
        effects: list[Effect] = [*self.discovery.handle_timer(now)]
        if self._sampler.batch is not None:
            effects += self._sampler.handle_timer(now)
        if self._filter.batch is not None:
            effects += self._filter.handle_timer(now)
        answers, ready = self.discovery.answers(ipv6=False), self.discovery.ready(now)
        outside = next((seen.host for seen in answers.values() if seen), None)
        if self._asked and ready and outside is not None:
            self._asked = False
            if outside != self._sampled_of or self.behaviour(ipv6=False).mapping in DEPENDENT:
                self._sampled_of, self._asked_at = outside, now
                effects += self._sampler.begin([one for one, seen in answers.items() if seen], now)
        if ready:
            effects += self._test_filter(answers, now)
        return effects + self._doubt(answers, now)

    def _doubt(self, servers: Iterable[SocketAddress], now: float) -> list[Effect]:
        """Test with fresh sockets whether the shared port is the cause when no server answers it."""
        if not self.discovery.silent(ipv6=False):
            self._doubted_at = None
            return []
        if self._sampler.batch is not None:
            return []
        if self._doubted_at is not None and now - self._doubted_at < c.PORT_DOUBT_REST:
            return []
        self._doubted_at = now
        self._sampled_of = None
        return self._sampler.begin(list(servers), now)

    def _test_filter(self, answers: Mapping[SocketAddress, SocketAddress | None], now: float) -> list[Effect]:
        """Test the filter once for each outside address: another router may filter differently."""
        server, outside = next(((one, seen) for one, seen in answers.items() if seen), (None, None))
        if server is None or outside == self._filter_of or self._filter.batch is not None:
            return []
        self._filter_of = outside
        return self._filter.begin(server, now)

    def batch_opened(self, batch: int, ports: tuple[int, ...], now: float) -> list[Effect]:
        """Take the local ports of a batch of sockets."""
        if batch == self._filter.batch:
            return self._filter.opened(ports, now)
        return self._sampler.opened(ports, now) if batch == self._sampler.batch else []

    def handle_batch(self, batch: int, index: int, data: bytes, source: SocketAddress) -> list[Effect]:
        """Take a datagram received by a socket of a batch."""
        if batch == self._filter.batch:
            return self._filter.handle(index, data, source)
        return self._sampler.handle(index, data, source) if batch == self._sampler.batch else []
