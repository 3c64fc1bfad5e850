"""The port mapper against routers made of a few lines: leases, renewals, lost mappings, and hostile answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.paths import mapping as m
from netctl.paths.mapping import Fetch, Gateway, Mapping, MappingChanged, PortEffect, Search, ToRouter
from netctl.paths.portmap import MapState, PortMapper
from netctl.wire import natpmp, pcp, upnp

ROUTER, OWN, OUTSIDE = IPv4Address("192.168.1.1"), IPv4Address("192.168.1.10"), IPv4Address("203.0.113.7")
HERE = Gateway(ROUTER, OWN)
PORT = 51820
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
FOUND = f"HTTP/1.1 200 OK\r\nST: {upnp.SEARCH_TARGETS[0]}\r\nLOCATION: http://192.168.1.1:5000/d.xml\r\n\r\n".encode()
DESCRIPTION = (
    f"<root><service><serviceType>{SERVICE}</serviceType><controlURL>/ctl</controlURL></service></root>"
).encode()


def soap(action: str, **values: str) -> bytes:
    return upnp.call(SERVICE, f"{action}Response", tuple(values.items()))


def fault(code: int) -> bytes:
    return f"<e><errorCode>{code}</errorCode><errorDescription>no</errorDescription></e>".encode()


@dataclass
class Router:
    """A router that speaks what `speaks` says."""

    speaks: set[str]
    lease_s: int = 1200
    born: float = 0.0
    mapped: dict[int, int] = field(default_factory=dict)
    """Internal port by external port, ours."""
    taken: set[int] = field(default_factory=set)
    permanent_only: bool = False
    port: int = PORT
    """Outside, by PCP and NAT-PMP."""
    cut: bytes = b"never"
    """Requests with this in them are answered in part."""
    asked: int = 0
    nonces: set[bytes] = field(default_factory=set)

    def datagram(self, data: bytes, now: float) -> list[bytes]:
        self.asked += 1
        epoch = int(now - self.born).to_bytes(4, "big")
        if data[0] == pcp.VERSION:
            if "PCP" not in self.speaks:
                return [b"\0\x81\0\1" + epoch] if "NAT-PMP" in self.speaks else []
            lifetime = min(int.from_bytes(data[4:8], "big"), self.lease_s)
            self.nonces.add(data[24:36])
            self._keep(PORT, lifetime)
            head = b"\2\x81\0\0" + lifetime.to_bytes(4, "big") + epoch + bytes(12)
            return [
                head + data[24:42] + self.port.to_bytes(2, "big") + bytes(10) + b"\xff\xff" + OUTSIDE.packed
            ]
        if "NAT-PMP" not in self.speaks:
            return []
        if data == natpmp.address_request():
            return [b"\0\x80\0\0" + epoch + OUTSIDE.packed]
        lifetime = min(int.from_bytes(data[8:12], "big"), self.lease_s)
        self._keep(PORT, lifetime)
        return [
            b"\0\x81\0\0" + epoch + data[4:6] + self.port.to_bytes(2, "big") + lifetime.to_bytes(4, "big")
        ]

    def exchange(self, request: bytes) -> tuple[int, bytes]:
        self.asked += 1
        if request.startswith(b"GET /d.xml "):
            return 200, DESCRIPTION
        if self.cut in request:
            return 0, b""
        assert request.startswith(b"POST /ctl ")
        body = upnp.read_xml(request.partition(b"\r\n\r\n")[2])
        if b"#GetExternalIPAddress" in request:
            return 200, soap("GetExternalIPAddress", NewExternalIPAddress=str(OUTSIDE))
        port = int(body.value("NewExternalPort"))
        if b"#DeletePortMapping" in request:
            self._keep(port, 0)
            return 200, soap("DeletePortMapping")
        if port in self.taken:
            return 500, fault(upnp.CONFLICT)
        if self.permanent_only and body.value("NewLeaseDuration") != "0":
            return 500, fault(upnp.PERMANENT_ONLY)
        self._keep(port, 1)
        return 200, soap("AddPortMapping")

    def _keep(self, external: int, lifetime_s: int) -> None:
        if lifetime_s:
            self.mapped[external] = PORT
        else:
            self.mapped.pop(external, None)


class Lan:
    """A host's port mapper, its router, and a clock that jumps from timer to timer."""

    def __init__(self, *speaks: str) -> None:
        self.now = 1000.0
        self.router = Router(set(speaks), born=self.now - 5000)
        self.mapper = PortMapper(bytes(32), lambda count: bytes([7]) * count)
        self.changes: list[tuple[float, Mapping | None]] = []

    def perform(self, effects: list[PortEffect]) -> None:
        for effect in effects:
            match effect:
                case ToRouter(data):
                    for answer in self.router.datagram(data, self.now):
                        self.perform(self.mapper.handle_router(answer, self.now))
                case Search():
                    if "UPnP" in self.router.speaks:
                        self.perform(self.mapper.handle_search(FOUND, self.now))
                case Fetch(ticket, _, request):
                    self.perform(self.mapper.handle_fetched(ticket, *self.router.exchange(request), self.now))
                case MappingChanged(mapping):
                    self.changes.append((self.now, mapping))

    def aim(self, gateway: Gateway | None = HERE, port: int = PORT) -> None:
        self.perform(self.mapper.aim(gateway, port, self.now))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.mapper.next_timer()) is not None and due <= end:
            self.now = max(self.now, due)
            self.perform(self.mapper.handle_timer(self.now))
        self.now = end

    @property
    def open(self) -> tuple[str, str] | None:
        found = self.mapper.status(self.now).mapping
        return None if found is None else (found.protocol, str(found.external))


def test_each_protocol_is_found_and_the_newest_is_taken() -> None:
    for speaks, expected in (
        (("PCP", "NAT-PMP", "UPnP"), "PCP"),
        (("NAT-PMP", "UPnP"), "NAT-PMP"),
        (("UPnP",), "UPnP"),
    ):
        lan = Lan(*speaks)
        lan.aim()
        lan.run(5)
        assert lan.open == (expected, "203.0.113.7:51820")
        assert lan.router.mapped == {PORT: PORT}
        assert len(lan.changes) == 1
        assert lan.changes[0][0] - 1000 <= 3


def test_a_lease_is_renewed_at_half_and_nothing_is_said_about_it() -> None:
    for speaks in ("PCP", "NAT-PMP", "UPnP"):
        lan = Lan(speaks)
        lan.aim()
        lan.run(5)
        asked = lan.router.asked
        lan.run(590)
        assert lan.router.asked == asked
        lan.run(20)
        assert lan.router.asked > asked
        lan.run(86_400)
        assert lan.open is not None
        assert len(lan.changes) == 1
        assert lan.router.asked < 500
    assert len(lan.router.nonces) <= 1


def test_the_nonce_is_the_same_in_another_life() -> None:
    one, two = Lan("PCP"), Lan("PCP")
    for lan in (one, two):
        lan.aim()
    assert one.router.nonces == two.router.nonces != set()


def test_down_removes_the_mapping_and_the_end_of_the_agent_leaves_it_with_its_lease() -> None:
    for speaks in ("PCP", "NAT-PMP", "UPnP"):
        lan = Lan(speaks)
        lan.aim()
        lan.run(5)
        assert lan.mapper.close() == []
        lan.aim(None)
        assert lan.router.mapped == {}
        assert lan.changes[-1][1] is None
        assert lan.mapper.next_timer() is None


def test_a_mapping_without_an_end_is_removed_by_the_end_of_the_agent() -> None:
    lan = Lan("UPnP")
    lan.router.permanent_only = True
    lan.aim()
    lan.run(5)
    assert lan.open == ("UPnP", "203.0.113.7:51820")
    lan.run(3000)
    assert len(lan.changes) == 1
    lan.perform(lan.mapper.close())
    assert lan.router.mapped == {}


def test_a_port_that_another_host_has_is_left_to_it() -> None:
    lan = Lan("UPnP")
    lan.router.taken = {PORT}
    lan.aim()
    lan.run(5)
    assert lan.open is not None
    assert PORT not in lan.router.mapped
    assert len(lan.router.mapped) == 1
    lan.router.taken = set(range(65536))
    lan = Lan("UPnP")
    lan.router.taken = set(range(65536))
    lan.aim()
    lan.run(5)
    assert lan.mapper.state is MapState.RESTING
    assert dict(lan.mapper.status(lan.now).refused)["UPnP"] == "it refuses: no (718)"


def test_a_router_that_restarted_says_so_and_is_asked_again() -> None:
    for speaks, announcement in (
        ("PCP", b"\2\x80\0\0" + bytes(20)),
        ("NAT-PMP", b"\0\x80\0\0\0\0\0\0\xcb\0\x71\7"),
    ):
        lan = Lan(speaks)
        lan.aim()
        lan.run(60)
        lan.router.mapped.clear()
        lan.router.born = lan.now
        lan.perform(lan.mapper.handle_router(announcement, lan.now))
        assert lan.router.mapped == {PORT: PORT}, speaks


def test_a_router_that_falls_silent_is_tried_until_the_lease_is_over() -> None:
    lan = Lan("PCP")
    lan.aim()
    lan.run(5)
    lan.router.speaks = set()
    lan.run(1100)
    assert lan.changes[-1][1] is not None
    lan.run(200)
    assert lan.open is None
    assert [change for _, change in lan.changes][-1] is None
    asked = lan.router.asked
    lan.run(86_400)
    assert lan.router.asked - asked < 600  # a round every half an hour, nine datagrams each
    lan.router.speaks = {"UPnP"}
    lan.perform(lan.mapper.check(lan.now))
    lan.run(5)
    assert lan.open == ("UPnP", "203.0.113.7:51820")


def test_another_gateway_means_another_mapping() -> None:
    lan = Lan("PCP")
    lan.aim()
    lan.run(5)
    asked = lan.router.asked
    lan.aim(Gateway(IPv4Address("10.0.0.1"), IPv4Address("10.0.0.9")))
    assert [change is None for _, change in lan.changes] == [False, True, False]
    assert lan.router.asked == asked + 1  # nothing is asked of the one that is out of reach
    lan.aim(HERE, 4444)
    assert lan.changes[-1][1] is not None
    assert lan.changes[-1][1].internal_port == 4444


def test_answers_that_are_not_for_us_change_nothing() -> None:
    lan = Lan()
    lan.aim()
    nobody = bytes(10) + b"\xff\xff" + OUTSIDE.packed
    head = b"\2\x81\0\0\0\0\4\xb0\0\0\0\1" + bytes(12)
    ours = PORT.to_bytes(2, "big")
    for wrong in (
        head + bytes(12) + b"\x11\0\0\0" + ours + ours + nobody,  # another nonce
        b"\2\x81\0\2"
        + head[4:]
        + bytes(12)
        + b"\x11\0\0\0"
        + ours
        + ours
        + nobody,  # a refusal with another nonce
        b"",
        b"\2\x80\0\0" + bytes(20),
        bytes(1200),
    ):
        lan.perform(lan.mapper.handle_router(wrong, lan.now))
    assert resting(lan) is False
    lan.run(2.9)  # UPnP's turn
    elsewhere = FOUND.replace(b"192.168.1.1:5000", b"198.51.100.9:5000")
    lan.perform(lan.mapper.handle_search(elsewhere, lan.now))
    lan.perform(lan.mapper.handle_fetched(77, 200, DESCRIPTION, lan.now))
    lan.run(30)
    assert resting(lan) is True


def resting(lan: Lan) -> bool:
    """Whether a mapper without a mapping has given up for now; else it still asks."""
    assert lan.open is None
    assert lan.mapper.state in (MapState.RESTING, MapState.ASKING)
    return lan.mapper.state is MapState.RESTING


def test_an_outside_that_nobody_can_reach_is_no_mapping() -> None:
    lan = Lan("UPnP")
    effects = lan.mapper.aim(HERE, PORT, lan.now)
    del effects
    lan.now += 10
    while lan.mapper.state is MapState.ASKING:
        for effect in lan.mapper.handle_timer(lan.now):
            if isinstance(effect, Search):
                for fetch in lan.mapper.handle_search(FOUND, lan.now):
                    assert isinstance(fetch, Fetch)
                    for locate in lan.mapper.handle_fetched(fetch.ticket, 200, DESCRIPTION, lan.now):
                        assert isinstance(locate, Fetch)
                        answer = soap("GetExternalIPAddress", NewExternalIPAddress="0.0.0.0")
                        lan.perform(lan.mapper.handle_fetched(locate.ticket, 200, answer, lan.now))
        lan.now += 1
    assert dict(lan.mapper.status(lan.now).refused)["UPnP"] == "it names no address that others could reach"


@pytest.mark.parametrize("protocol", ["PCP", "NAT-PMP"])
@pytest.mark.parametrize(
    ("port", "lease_s", "said"),
    [(0, 1200, "it grants port 0, which is none"), (PORT, 0, "it grants no time")],
)
def test_a_grant_of_nothing_is_not_called_silence(protocol: str, port: int, lease_s: int, said: str) -> None:
    lan = Lan(protocol)
    lan.router.port, lan.router.lease_s = port, lease_s
    lan.aim()
    lan.run(20)
    assert lan.open is None
    assert (protocol, said) in lan.mapper.status(lan.now).refused


def test_an_answer_that_is_cut_is_called_by_its_name() -> None:
    lan = Lan("UPnP")
    lan.router.cut = b"#AddPortMapping"
    lan.aim()
    lan.run(20)
    refused = dict(lan.mapper.status(lan.now).refused)
    assert refused["UPnP"] == "its answer about the port does not come, or not whole"


KINDS = ["router", "search", "fetched", "time"]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["router", "search", "fetched", "time"]), st.binary(max_size=80)),
        max_size=30,
    )
)
def test_no_answers_break_the_mapper(events: list[tuple[str, bytes]]) -> None:
    lan = Lan()
    lan.aim()
    sent = 0
    for ticket, (kind, data) in enumerate(events):
        if kind == "router":
            effects = lan.mapper.handle_router(data, lan.now)
        elif kind == "search":
            effects = lan.mapper.handle_search(data, lan.now)
        elif kind == "fetched":
            effects = lan.mapper.handle_fetched(ticket, 200, data, lan.now)
        else:
            lan.now += 1
            effects = lan.mapper.handle_timer(lan.now)
        sent += len(effects)
    assert lan.open is None
    assert sent <= 3 * len(events)
    assert m.LEASE_S // 2 > m.RENEW_REST_S
