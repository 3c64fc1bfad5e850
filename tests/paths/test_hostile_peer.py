"""What a hostile member, or whoever copies its datagrams, can make a host keep or send. A sink counts."""

from __future__ import annotations

import ipaddress
import random
from collections import Counter
from typing import Literal

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from netctl.model.addresses import SocketAddress
from netctl.model.derive import underlay_prefix
from netctl.model.hoststate import PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.paths import constants as c
from netctl.paths.budget import Bucket
from netctl.paths.candidates import usable
from netctl.paths.effects import Effect, SendDatagram, SetEndpoint
from netctl.paths.manager import PathManager
from netctl.wire import probe
from netctl.wire.control import Candidate, Introduction
from netctl.wire.probe import Probe, ProbeType

POOL = ipaddress.ip_network("10.87.0.0/24")
ULA = ipaddress.ip_network("fd31:aaaa:bbbb:cccc::/64")
INSIDE = (POOL, ULA, underlay_prefix())
OVERLAY = ("10.87.0.7", "fd31:aaaa:bbbb:cccc::7", str(underlay_prefix()[7]))


class Victim:
    """One path manager with one hostile peer whose keys the test has."""

    def __init__(self, own: tuple[str, ...] = ("192.168.1.10:51820",)) -> None:
        self.now = 100.0
        self.random = random.Random(7)
        private, theirs = b"\x01" * 32, b"\x02" * 32
        self.key, self.peer = _public(private), _public(theirs)
        self.keys = probe.derive_keys(theirs, self.peer, self.key)
        self.manager = PathManager(self.key, private, self.random.randbytes, epoch_s=1.8e9)
        self.effects: list[Effect] = []
        self.numbers = True
        self.number = 10**15
        self.do(self.manager.set_local([Candidate("host", text) for text in own], self.now))
        self.do(self.manager.set_peers([self.peer], self.now))
        self.do(self.manager.control_up(self.now))

    def do(self, effects: list[Effect]) -> None:
        self.effects += effects

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.manager.next_timer()) is not None and due <= end:
            self.now = max(self.now, due)
            self.do(self.manager.handle_timer(self.now))
        self.now = end

    def offer(self, round_: int, *addresses: str, kind: Literal["srflx", "host"] = "srflx") -> None:
        candidates = [Candidate(kind, address) for address in addresses]
        self.do(self.manager.handle_message(Introduction(str(self.peer), round_, candidates), self.now))

    def ping(self, source: str, data: bytes | None = None) -> bytes:
        sealed = data or self.made()
        self.do(self.manager.handle_datagram(sealed, SocketAddress.parse(source), self.now))
        return sealed

    def made(self) -> bytes:
        """A ping of the peer, now."""
        self.number += 1000
        transaction = self.random.randbytes(probe.TRANSACTION_LEN)
        message = Probe(ProbeType.PING, transaction, number=self.number if self.numbers else None)
        return probe.seal(self.keys, message, self.random.randbytes(probe.NONCE_LEN))

    def sent(self) -> Counter[str]:
        return Counter(effect.destination.host for effect in self.effects if isinstance(effect, SendDatagram))

    def tried(self) -> str:
        return "\n".join(self.manager.status()[self.peer].tried)


def _public(private: bytes) -> WireGuardKey:
    return WireGuardKey(X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw())


def _text(host: str, port: int = 51820) -> str:
    return str(SocketAddress.of(host, port))


@pytest.mark.parametrize("host", OVERLAY)
def test_no_candidate_inside_the_tunnels_is_probed(host: str) -> None:
    victim = Victim()
    victim.do(victim.manager.set_inside(INSIDE, victim.now))
    victim.offer(5, _text(host), "203.0.113.9:51820")
    victim.run(20)
    assert victim.sent()["203.0.113.9"] > 4
    assert victim.sent()[host] == 0


@pytest.mark.parametrize("host", OVERLAY)
def test_a_ping_from_inside_the_tunnels_is_no_route_and_gets_no_answer(host: str) -> None:
    victim = Victim()
    victim.do(victim.manager.set_inside(INSIDE, victim.now))
    victim.ping(_text(host))
    victim.run(20)
    assert victim.sent()[host] == 0
    assert host not in victim.tried()


def test_routes_that_an_apply_puts_inside_are_given_up() -> None:
    victim = Victim()
    victim.ping("10.87.0.7:51820")
    assert "10.87.0.7" in victim.tried()
    before = victim.sent()["10.87.0.7"]
    victim.do(victim.manager.set_inside(INSIDE, victim.now))
    victim.run(20)
    assert "10.87.0.7" not in victim.tried()
    assert victim.sent()["10.87.0.7"] == before


def test_an_engine_that_roamed_into_the_tunnels_is_brought_back() -> None:
    victim = Victim()
    victim.do(victim.manager.set_inside(INSIDE, victim.now))
    victim.offer(5, "203.0.113.9:51820")
    victim.run(0.1)
    good = SocketAddress("203.0.113.9", 51820)
    _answer_all(victim, good)
    assert SetEndpoint(victim.peer, good) in victim.effects
    victim.run(1.5)  # unanswered: the path is suspect, and not defended against a better truth
    victim.effects.clear()
    victim.do(
        victim.manager.observe(victim.peer, PeerStatus(SocketAddress("10.87.0.7", 9), 0, 1, 1), victim.now)
    )
    assert SetEndpoint(victim.peer, good) in victim.effects


def _answer_all(victim: Victim, source: SocketAddress) -> None:
    """The peer answers all pings there, and pings itself with USING, whichever side chooses."""
    opening = probe.derive_keys(b"\x02" * 32, victim.peer, victim.key)
    victim.run(1.5)
    for effect in list(victim.effects):
        if isinstance(effect, SendDatagram) and effect.destination == source:
            asked = probe.open_probe(opening, effect.data)
            if asked.kind is not ProbeType.PING:
                continue
            flags = probe.ProbeFlag.HAVE_PONG | probe.ProbeFlag.USING
            for kind, transaction in (
                (ProbeType.PONG, asked.transaction),
                (ProbeType.PING, victim.random.randbytes(probe.TRANSACTION_LEN)),
            ):
                message = Probe(kind, transaction, flags, source if kind is ProbeType.PONG else None)
                sealed = probe.seal(opening, message, victim.random.randbytes(probe.NONCE_LEN))
                victim.do(victim.manager.handle_datagram(sealed, source, victim.now))


def test_a_hundred_offers_in_two_seconds_are_no_flood() -> None:
    victim = Victim()
    hosts = [f"198.51.100.{number}" for number in range(1, 17)]
    for round_ in range(100):
        victim.offer(10 + round_, *(_text(host) for host in hosts))
        victim.run(0.02)
    victim.run(3)
    flood = sum(victim.sent()[host] for host in hosts)
    assert flood <= c.UNPROVEN_BURST + 5 * c.UNPROVEN_RATE + 1, flood
    before = flood
    for round_ in range(600):
        victim.offer(200 + round_, *(_text(host) for host in hosts))
        victim.run(0.1)
    flood = sum(victim.sent()[host] for host in hosts) - before
    assert flood <= 61 * c.UNPROVEN_RATE, flood


def test_one_round_of_sixteen_candidates_is_sent_whole() -> None:
    victim = Victim()
    hosts = [f"198.51.100.{number}" for number in range(1, 17)]
    victim.offer(10, *(_text(host) for host in hosts))
    victim.run(6)
    assert all(victim.sent()[host] >= len(c.PUNCH_OFFSETS) for host in hosts), victim.sent()


@pytest.mark.parametrize(
    "host", ["0.1.2.3", "127.0.0.1", "169.254.1.1", "224.0.0.251", "240.0.0.1", "255.255.255.255"]
)
def test_no_other_host_has_such_an_address(host: str) -> None:
    assert not usable(SocketAddress(host, 51820))


@pytest.mark.parametrize("host", ["::1", "ff02::1", "fe80::1", "2002:c000:201::1", "2001:0:1::1", "100::1"])
def test_no_other_host_has_such_an_ipv6_address(host: str) -> None:
    assert not usable(SocketAddress(host, 51820))


def test_a_private_address_of_another_site_is_not_probed() -> None:
    victim = Victim()
    victim.offer(5, "10.9.8.7:22", "172.16.5.5:22", "100.64.1.1:22", kind="host")
    victim.run(20)
    assert not set(victim.sent()) & {"10.9.8.7", "172.16.5.5", "100.64.1.1"}
    assert "of another private network, not tried" in victim.tried()


@pytest.mark.parametrize(
    ("own", "offered"),
    [
        (("192.168.1.10:51820",), ("192.168.7.7:51820",)),
        (("192.168.1.10:51820", "203.0.113.1:51820"), ("10.9.8.7:51820", "203.0.113.1:999")),
    ],
)
def test_a_private_address_of_what_may_be_the_same_site_is_probed(
    own: tuple[str, ...], offered: tuple[str, ...]
) -> None:
    victim = Victim(own)
    victim.offer(5, *offered, kind="host")
    victim.run(20)
    assert victim.sent()[SocketAddress.parse(offered[0]).host] >= 4


def test_a_copied_ping_is_taken_once() -> None:
    victim = Victim()
    sealed = victim.ping("198.51.100.1:1000")
    before = sum(victim.sent().values())
    for number in range(200):
        victim.ping(f"198.51.100.2:{2000 + number}", sealed)
    assert sum(victim.sent().values()) == before
    assert "198.51.100.2" not in victim.tried()


@pytest.mark.parametrize("numbers", [True, False])
def test_a_ping_of_long_ago_is_dropped_whatever_its_source(numbers: bool) -> None:
    victim = Victim()
    victim.numbers = numbers
    recorded = [victim.made() for _ in range(300)]
    victim.number += 3_600_000_000
    victim.numbers = True
    victim.ping("203.0.113.9:51820")  # of today
    before = sum(victim.sent().values())
    for number, data in enumerate(recorded):
        victim.ping(f"198.51.100.2:{2000 + number}", data)
        victim.run(1.0)
    assert "198.51.100.2" not in victim.tried()
    assert victim.sent()["198.51.100.2"] == 0
    victim.ping("203.0.113.9:51820")
    assert sum(victim.sent().values()) > before, "the peer itself is answered as ever"


def test_forged_sources_take_no_place_from_true_candidates() -> None:
    victim = Victim()
    for number in range(200):  # copies that overtake the pings they are of: nothing tells them from these
        victim.ping(f"198.51.100.2:{2000 + number}")
    assert victim.tried().count("198.51.100.2") <= c.MAX_HEARD_FROM
    true = [f"203.0.113.{number}" for number in range(1, c.MAX_CANDIDATES + 1)]
    victim.offer(5, *(_text(host) for host in true))
    assert all(f"{host}:" in victim.tried() for host in true)
    victim.run(60)
    for host in true:
        assert victim.sent()[host] > 0


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(3, 2.0)
    assert [bucket.take(5.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(5.5), bucket.take(5.5)] == [True, False]
    assert not bucket.take(4.0)
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]
