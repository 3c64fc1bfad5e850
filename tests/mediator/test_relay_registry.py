"""Relays apart register with a mediator: who may, what they are told, and what ends it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mediator.core import relayregistry as rr
from mediator.core.apprelays import relay_of_pair
from mediator.core.relay_pairs import PairMember, PairPort
from netctl.config import load_document
from netctl.model.document import Document
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.paths.relaychoice import BESIDE
from netctl.wire import registration as w
from tests.support.documents import key


def made(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def public(private: Ed25519PrivateKey) -> IdentityKey:
    return IdentityKey(private.public_key().public_bytes_raw())


MEDIATOR, FRA, SIN, STRANGER, GATE = (made(number) for number in range(1, 6))
NONCE = bytes(range(32))


def document(*relays: Ed25519PrivateKey) -> Document:
    """Ann and gate, which relays by itself, have agents; phone and tablet have apps."""
    entries: list[dict[str, object]] = [
        {"url": "netctl://m.example.net:8443", "identity": [str(public(MEDIATOR))]}
    ]
    for number, one in enumerate(relays):
        url = f"netctl://r{number}.example.net:8443"
        entries.append({"url": url, "identity": [str(public(one))], "role": "relay"})
    members: dict[str, dict[str, object]] = {
        "ann": {"wireguard": key("ann"), "identity": f"ed25519:{key('i ann')}"},
        "gate": {
            "wireguard": key("gate"),
            "identity": str(public(GATE)),
            "endpoints": ["192.0.2.1:51820"],
            "relay": True,
        },
        "tablet": {"wireguard": key("tablet")},
        "phone": {"wireguard": key("phone")},
    }
    text = {
        "apiVersion": "netctl/v1",
        "mediators": entries,
        "members": members,
        "networks": {"home": {"mode": "routed", "ipv4": "10.1.0.0/24", "members": ["*"]}},
    }
    return load_document(json.dumps(text)).document


def pairs(count: int) -> list[PairPort]:
    ann, app = (WireGuardKey.parse(key(name)) for name in ("ann", "app"))
    return [
        PairPort(40_100 + n, (PairMember(ann, 40_000, False), PairMember(app, 40_001, True)))
        for n in range(count)
    ]


@dataclass
class Site:
    """A mediator's registry, and what its document and store say at the moment."""

    document: Document
    told: rr.Told = field(default_factory=lambda: rr.Told(7, 40_000, pairs(1)))

    def __post_init__(self) -> None:
        self.registry = rr.RelayRegistry(public(MEDIATOR), lambda: self.document, lambda: self.told)

    def register(
        self,
        number: int,
        relay: Ed25519PrivateKey,
        now: float = 0.0,
        *,
        pin: IdentityKey | None = None,
        nonce: bytes = NONCE,
    ) -> list[rr.Effect]:
        (hello,) = self.registry.connected(number, NONCE, now)
        assert hello == rr.Tell(number, (w.Hello(w.VERSION, NONCE.hex()),))
        own = b"n" * 32
        signed = relay.sign(w.transcript(pin or public(MEDIATOR), nonce, own, public(relay)))
        message = w.Register(w.VERSION, str(public(relay)), own.hex(), signed.hex(), "fra")
        return self.registry.received(number, w.encode(message), now)

    def says(self, number: int, message: w.Message, now: float) -> list[rr.Effect]:
        return self.registry.received(number, w.encode(message), now)


def ended(effects: list[rr.Effect]) -> str:
    (effect,) = effects
    assert isinstance(effect, rr.End)
    code: str = effect.error.code
    return code


LOAD = w.Load(4, 2, 1_000, 8_000)


def test_a_relay_of_the_document_is_told_the_pairs_and_tells_its_load() -> None:
    site = Site(document(FRA, SIN))
    heard, told = site.register(1, FRA)
    assert heard == rr.Tell(1, (w.Heard(45),), known=True)
    assert isinstance(told, rr.Tell)
    (part,) = told.messages
    assert part == w.Pairs(
        7, 40_000, 0, 1, [w.PairRow(40_100, (key("ann"), key("app")), (40_000, 40_001), (False, True))]
    )
    assert w.decode(w.encode(part)) == part
    assert str(public(FRA)) in site.registry
    assert str(public(SIN)) not in site.registry
    assert site.says(1, LOAD, 10.0) == [rr.Tell(1, (w.Heard(45),))]
    fra, sin = site.registry.status(20.0)
    assert (fra["relay"], fra["registered"], fra["place"], fra["since_s"], fra["expires_s"]) == (
        "r0.example.net:8443",
        True,
        "fra",
        20.0,
        35.0,
    )
    assert (fra["bindings"], fra["members"], fra["bits_per_s"], fra["forwarded_bytes"]) == (
        4,
        2,
        8_000,
        1_000,
    )
    assert (sin["registered"], sin["bindings"]) == (False, None)


def test_changed_pairs_are_told_in_parts_and_the_same_ones_once() -> None:
    site = Site(document(FRA))
    site.register(1, FRA)
    assert site.registry.handle_timer(1.0) == []
    site.told = rr.Told(8, 40_000, pairs(2 * w.ROWS + 1))
    (told,) = site.registry.handle_timer(2.0)
    assert isinstance(told, rr.Tell)
    assert [(one.part, one.parts, len(one.pairs)) for one in told.messages if isinstance(one, w.Pairs)] == [
        (0, 3, w.ROWS),
        (1, 3, w.ROWS),
        (2, 3, 1),
    ]
    assert all(len(w.encode(one)) < 256 * 1024 for one in told.messages)
    assert site.registry.handle_timer(3.0) == []
    site.told = rr.Told(9, 40_000, [])
    (told,) = site.registry.handle_timer(4.0)
    assert told == rr.Tell(1, (w.Pairs(9, 40_000, 0, 1, []),)), "an empty list is told, too"


@pytest.mark.parametrize(
    ("relay", "words", "code"),
    [
        (STRANGER, {}, "register.unknown"),
        (GATE, {}, "register.unknown"),
        (MEDIATOR, {}, "register.unknown"),
        (FRA, {"pin": public(STRANGER)}, "register.signature"),
        (FRA, {"nonce": bytes(32)}, "register.signature"),
    ],
    ids=[
        "a stranger",
        "a member that relays",
        "a mediator",
        "signed for another mediator",
        "an old signature",
    ],
)
def test_nobody_else_is_told_anything(relay: Ed25519PrivateKey, words: dict[str, object], code: str) -> None:
    site = Site(document(FRA))
    assert ended(site.register(1, relay, **words)) == code  # type: ignore[arg-type]
    assert len(site.registry) == 0
    assert not site.registry.has(1)
    assert site.says(1, LOAD, 1.0) == []


def test_what_is_no_registration_ends_the_connection() -> None:
    site = Site(document(FRA))
    for number, payload in enumerate(
        (b"", b"{}", b"[" * 5000, w.encode(LOAD), w.encode(w.Heard(5)), b'{"type":"register"}')
    ):
        site.registry.connected(number, NONCE, 0.0)
        (end,) = site.registry.received(number, payload, 0.0)
        assert isinstance(end, rr.End)
        assert end.error.code in rr.OFFENCES
    site.register(9, FRA)
    assert ended(site.says(9, w.Hello(1, "00"), 1.0)) == "register.order"
    assert len(site.registry) == 0


@pytest.mark.parametrize("unheld", [[(1, 65_535), (1, 65_535)], [(40_001, 40_000)], [(9, 9), (8, 8)]])
def test_lacking_ports_out_of_order_end_the_connection(unheld: list[tuple[int, int]]) -> None:
    site = Site(document(FRA))
    site.register(1, FRA)
    assert ended(site.says(1, w.Load(4, 2, 1_000, 8_000, unheld), 1.0)) == "message.bad"


def test_silence_another_registration_and_the_document_end_it() -> None:
    site = Site(document(FRA))
    site.registry.connected(1, NONCE, 0.0)
    assert site.registry.handle_timer(rr.REGISTER_TIMEOUT_S - 0.1) == []
    assert ended(site.registry.handle_timer(rr.REGISTER_TIMEOUT_S)) == "register.silent"
    site.register(2, FRA, 0.0)
    replaced, *_ = site.register(3, FRA, 1.0)
    assert isinstance(replaced, rr.End)
    assert (replaced.connection, replaced.error.code) == (2, "register.replaced")
    site.registry.disconnected(2)
    assert str(public(FRA)) in site.registry, "the end of the older one is not the newer one's"
    site.says(3, LOAD, 40.0)
    assert site.registry.handle_timer(40.0 + w.LIFE_S - 0.1) == []
    assert ended(site.registry.handle_timer(40.0 + w.LIFE_S)) == "register.silent"
    site.register(4, FRA, 100.0)
    site.document = document(SIN)
    assert ended(site.registry.handle_timer(101.0)) == "register.unknown"
    assert len(site.registry) == 0


# -- the relay of a pair with an app


def at(
    one: Document, app: str, peer: str, distances: dict[str, int], *known: Ed25519PrivateKey
) -> str | None:
    names = {str(public(relay)) for relay in known}
    found = relay_of_pair(one, one.members[app], one.members[peer], distances, names, {})
    return found.host if found is not None else None


def test_an_app_meets_a_member_at_the_relay_that_is_nearest_to_the_member() -> None:
    one, fra, sin = document(FRA, SIN), str(public(FRA)), str(public(SIN))
    near = {BESIDE: 80, fra: 5, sin: 90}
    assert at(one, "phone", "ann", near, FRA, SIN) == "r0.example.net"
    assert at(one, "phone", "ann", near, SIN) is None, (
        "that one does not know the pair, and the other is farther"
    )
    assert at(one, "phone", "ann", {BESIDE: 80, fra: 75}, FRA) is None, "hardly nearer"
    assert at(one, "phone", "ann", {fra: 5}, FRA) is None, "how far the mediator's is, nobody knows"
    assert at(one, "phone", "ann", {BESIDE: 60_000, fra: 60_000}, FRA) is None, "out of reach"
    assert at(one, "phone", "ann", {}, FRA, SIN) is None
    assert at(one, "phone", "tablet", near, FRA, SIN) is None, "an app measures nothing"


def test_a_relay_that_the_document_names_for_an_app_is_that_of_all_its_pairs() -> None:
    plain, fra = document(FRA, SIN), str(public(FRA))

    def naming(**hosts: str) -> Document:
        members = {
            name: replace(member, at_relay=hosts.get(name, "")) for name, member in plain.members.items()
        }
        return replace(plain, members=members)

    one = naming(phone="r1.example.net")
    assert at(one, "phone", "ann", {BESIDE: 80, fra: 5}, FRA) == "r1.example.net", (
        "also before it has registered"
    )
    assert at(one, "phone", "tablet", {}) == at(one, "tablet", "phone", {}) == "r1.example.net"
    both = naming(phone="r1.example.net", tablet="r0.example.net")
    assert at(both, "phone", "tablet", {}) == at(both, "tablet", "phone", {}) == "r0.example.net"
    assert at(naming(phone="m.example.net"), "phone", "ann", {BESIDE: 80, fra: 5}, FRA) is None
