"""The hub: who gets in, who is thrown out, who hears of whom, and what goes through the store first."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from mediator.core import allocations, introducer, pace
from mediator.core import effects as fx
from mediator.core import hub as h
from mediator.core.audience import INTEREST_ABOVE
from mediator.core.controlconnections import LOGIN_TIMEOUT_S, SILENCE_S
from mediator.core.transactions import Basis
from netctl.config import load_document
from netctl.model.addresses import SocketAddress
from netctl.model.document import Document
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.model.view import View
from netctl.session.login import make_login
from netctl.session.replica import Kept, Replica
from netctl.wire import control as w
from netctl.wire.relay import Allocation
from netctl.wire.relaysecret import agreed_secret

SOURCE = SocketAddress("203.0.113.1", 5555)
MEDIATOR = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
PIN = IdentityKey(MEDIATOR.public_key().public_bytes_raw())
OLD_PIN = IdentityKey(Ed25519PrivateKey.from_private_bytes(b"\6" * 32).public_key().public_bytes_raw())
SECRET = bytes(range(32))
NAMES = ("ann", "bob", "cid", "dan")
NONCE = b"\5" * 32
NOT_A_KEY = "A" * 42 + "B="


def private(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))


def identity(name: str) -> IdentityKey:
    return IdentityKey(private(name).public_key().public_bytes_raw())


def key(name: str) -> WireGuardKey:
    return WireGuardKey(name.encode().ljust(32, b"!"))


def document(*, absent: tuple[str, ...] = (), fixed: dict[str, str] | None = None) -> Document:
    """ann, bob, cid share `lan`; dan shares `work` with ann alone; `phone` never logs in."""
    members: dict[str, dict[str, str]] = {
        name: {"wireguard": str(key(name)), "identity": str(identity(name))} for name in NAMES
    }
    members["phone"] = {"wireguard": str(key("phone"))}
    for name in absent:
        members[name]["state"] = "absent"
    lan = [name for name in ("ann", "bob", "cid") if name not in absent]
    text = {
        "apiVersion": "netctl/v1",
        "id": "hubt-0001",
        "mediators": [{"url": "netctl://192.0.2.1:8443", "identity": [str(OLD_PIN), str(PIN)]}],
        "members": members,
        "networks": {
            "lan": {"mode": "routed", "ipv4": "10.1.0.0/28", "members": lan, "addresses": fixed or {}},
            "work": {"mode": "routed", "ipv4": "10.2.0.0/28", "members": ["ann", "dan"]},
        },
    }
    return load_document(json.dumps(text)).document


NETWORKS = document().networks


def note_sent(sent: dict[int, list[w.Message]], told: fx.Send | fx.Deliver) -> None:
    """Write down what connections are sent."""
    if isinstance(told, fx.Send):
        sent.setdefault(told.connection, []).append(told.message)
        return
    for number in told.connections:
        sent.setdefault(number, []).extend(map(w.decode_any, told.payloads))


class Shell:
    """Performs effects in memory."""

    def __init__(
        self,
        first: Document | None = None,
        *,
        minor: int = w.MINOR_VERSION,
        interest_above: int = INTEREST_ABOVE,
    ) -> None:
        """`minor`: the minor version of the members."""
        self.minor = minor
        self.hub = h.Hub(PIN, MEDIATOR.sign, SECRET, generation=100, interest_above=interest_above)
        self.unix_s = 0
        self.sent: dict[int, list[w.Message]] = {}
        self.dropped: dict[int, str] = {}
        self.stores: list[fx.Store] = []
        self.full = False
        self.load(first or document())

    def load(self, wanted: Document) -> None:
        self.perform(self.hub.load(wanted, wanted.mediators[0], self.unix_s))

    def perform(self, effects: list[fx.Effect]) -> None:
        pending = list(effects)
        while pending:
            match pending.pop(0):
                case fx.Send() | fx.Deliver() as told:
                    note_sent(self.sent, told)
                case fx.Drop(number, error):
                    self.dropped[number] = error.code
                case fx.Store() as wanted:
                    self.stores.append(wanted)
                    if self.full:
                        pending = self.hub.refused(0.0) + pending
                    else:
                        pending = (
                            self.hub.stored(
                                wanted.leases, wanted.ports, wanted.pairs, wanted.resting, self.unix_s
                            )
                            + pending
                        )
                case _:
                    pass

    def connect(self, number: int, now: float = 0.0) -> bytes:
        nonce = bytes([number]) * 32
        self.perform(self.hub.connected(number, SOURCE, nonce, now))
        return nonce

    def give(self, number: int, message: w.Message, now: float = 0.0) -> list[w.Message]:
        """A message from a member; what that member is sent in answer."""
        before = len(self.sent.get(number, []))
        self.perform(self.hub.received(number, w.encode(message), now, self.unix_s))
        return self.sent.get(number, [])[before:]

    def login(self, number: int, name: str, now: float = 0.0) -> list[w.Message]:
        return self.give(number, self.proof(number, name, now), now)

    def proof(self, number: int, name: str, now: float = 0.0) -> w.Login:
        nonce = self.connect(number, now)
        login = make_login(PIN, nonce, NONCE, identity(name), key(name), private(name).sign)
        return msgspec.structs.replace(login, minor=self.minor)

    def view(self, number: int, name: str) -> View:
        """As the member has it by now, from all that it was sent."""
        return replayed(self.sent[number], key(name)).view


def replayed(messages: list[w.Message], to: WireGuardKey, kept: Kept | None = None) -> Kept:
    """What a member makes of what it was sent. It never has to ask again."""
    replica = Replica((PIN,), to, kept)
    for message in messages:
        match message:
            case w.ViewChunk() | w.ViewRows():
                assert not replica.chunk(message)
            case w.ViewDelta():
                assert not replica.delta(message)
            case w.Sealed():
                kept = replica.sealed(message)
                assert kept is not None
    assert kept is not None
    return kept


def names(view: View) -> set[str]:
    return {member.name for member in view.members.values()}


def test_a_member_is_welcomed_and_sees_what_it_may_see() -> None:
    shell = Shell()
    welcome, chunk, sealed = shell.login(1, "bob")
    assert isinstance(welcome, w.Welcome)
    assert welcome.observed == str(SOURCE)
    assert isinstance(chunk, w.ViewRows)
    assert (welcome.minor, chunk.networks) == (2, [w.RowNetwork("lan", str(NETWORKS["lan"].ipv6))])
    assert all(row.leases.endswith(" +") for row in chunk.rows)
    assert isinstance(sealed, w.Sealed)
    view = shell.view(1, "bob")
    assert names(view) == {"ann", "bob", "cid"}
    assert {network for network, _ in view.leases} == {"lan"}
    shell.login(2, "dan")
    assert names(shell.view(2, "dan")) == {"ann", "dan"}
    assert shell.hub.online == 2


def test_a_member_of_the_release_before_is_sent_what_it_knows() -> None:
    shell = Shell(minor=0)
    _, chunk, sealed = shell.login(1, "bob")
    assert isinstance(chunk, w.ViewChunk)
    assert isinstance(sealed, w.Sealed)
    newer = Shell()
    newer.login(1, "bob")
    assert shell.view(1, "bob") == newer.view(1, "bob")


@pytest.mark.parametrize(
    ("who", "code"),
    [("stranger", "login.unknown-key"), ("cid", "login.unknown-key"), ("phone", "login.no-identity")],
)
def test_whoever_is_no_present_member_with_an_identity_stays_out(who: str, code: str) -> None:
    shell = Shell(document(absent=("cid",)))
    shell.login(1, who)
    assert shell.dropped == {1: code}
    assert shell.hub.online == 0


def test_a_login_is_good_for_one_connection_and_one_mediator() -> None:
    shell = Shell()
    nonce = shell.connect(1)
    recorded = make_login(PIN, nonce, NONCE, identity("ann"), key("ann"), private("ann").sign)
    shell.give(1, recorded)
    shell.connect(2)
    shell.give(2, recorded)
    other = IdentityKey(b"\x09" * 32)
    shell.give(
        3, make_login(other, shell.connect(3), NONCE, identity("bob"), key("bob"), private("bob").sign)
    )
    assert shell.dropped == {2: "login.signature", 3: "login.signature"}
    assert shell.hub.online == 1


def test_another_pin_of_the_list_cannot_pass_a_login_on() -> None:
    """A hostile replica shows a member our nonce; what it signs names the replica's pin, and is worth nothing."""
    shell = Shell()
    assert OLD_PIN in document().mediators[0].identity
    login = make_login(OLD_PIN, shell.connect(1), NONCE, identity("ann"), key("ann"), private("ann").sign)
    assert shell.give(1, login) == []
    assert shell.dropped == {1: "login.signature"}


def test_one_members_identity_does_not_open_anothers_place() -> None:
    shell = Shell()
    nonce = shell.connect(1)
    shell.give(1, make_login(PIN, nonce, NONCE, identity("bob"), key("ann"), private("bob").sign))
    assert shell.dropped == {1: "login.identity"}


def test_a_weak_identity_is_refused_even_if_a_document_has_it() -> None:
    neutral = IdentityKey(b"\1" + bytes(31))
    shell, good = Shell(), document()
    weak = replace(good.members["ann"], identity=neutral)
    shell.load(replace(good, members={**good.members, "ann": weak}))
    forged = b"\1" + bytes(63)
    shell.give(1, make_login(PIN, shell.connect(1), NONCE, neutral, key("ann"), lambda _: forged))
    assert shell.dropped == {1: "login.weak-key"}


@pytest.mark.parametrize(
    "message",
    [
        w.Ping(1),
        w.Refresh(),
        w.RelayRequest(str(key("ann"))),
        w.Login(1, f"ed25519:{NOT_A_KEY}", NOT_A_KEY, "00" * 32, "00" * 64),
    ],
)
def test_an_unauthenticated_connection_gets_nothing_but_a_refusal(message: w.Message) -> None:
    shell = Shell()
    shell.connect(1)
    assert shell.give(1, message) == []
    assert shell.dropped[1] in ("login.first", "message.bad")


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=40, deadline=None)
def test_no_bytes_raise(data: bytes, known: bool) -> None:
    shell = Shell()
    if known:
        shell.login(1, "ann")
    else:
        shell.connect(1)
    shell.perform(shell.hub.received(1, data, 0.0, 0))
    assert shell.dropped == {1: "message.bad"}


def test_time_is_up_for_those_who_never_log_in_and_those_who_fall_silent() -> None:
    shell = Shell()
    shell.connect(1, 0.0)
    shell.login(2, "ann", 0.0)
    assert shell.hub.next_timer() == LOGIN_TIMEOUT_S
    shell.perform(shell.hub.handle_timer(LOGIN_TIMEOUT_S, 0))
    assert shell.dropped == {1: "login.timeout"}
    shell.give(2, w.Ping(1), 30.0)
    shell.perform(shell.hub.handle_timer(SILENCE_S, 0))
    assert 2 not in shell.dropped
    shell.perform(shell.hub.handle_timer(30.0 + SILENCE_S, 0))
    assert shell.dropped[2] == "silent"
    assert shell.hub.next_timer() is None


def test_presence_reaches_those_who_may_see_and_nobody_else() -> None:
    shell = Shell()
    shell.login(1, "ann")
    shell.login(2, "bob")
    shell.login(3, "dan")
    shell.perform(shell.hub.disconnected(2))
    news = {n: [m for m in sent if isinstance(m, w.Presence)] for n, sent in shell.sent.items()}
    bob = str(key("bob"))
    assert news[1][:1] == [w.Presence(bob, online=True)]
    assert news[1][-1:] == [w.Presence(bob, online=False)]
    assert all(message.peer != bob for message in news[3])


def test_nothing_is_shown_before_it_is_stored() -> None:
    shell = Shell()
    assert len(shell.stores) == 1
    hub = h.Hub(PIN, MEDIATOR.sign, SECRET)
    (store,) = hub.load(document(), document().mediators[0], 0)
    assert isinstance(store, fx.Store)
    assert not [lease for lease in hub.view(key("ann")).leases.values() if len(lease.addresses) > 1]
    hub.stored(store.leases, store.ports, (), (), 0)
    assert all(len(lease.addresses) == 2 for lease in hub.view(key("ann")).leases.values())


def test_a_restart_from_the_store_changes_no_address_and_stores_nothing() -> None:
    shell = Shell()
    (store,) = shell.stores
    hub = h.Hub(PIN, MEDIATOR.sign, SECRET)
    hub.restore({(lease.network, lease.key): lease.address for lease in store.leases}, dict(store.ports))
    assert hub.load(document(), document().mediators[0], 0) == []
    assert hub.view(key("ann")).leases == shell.hub.view(key("ann")).leases


def test_a_removed_member_is_dropped_and_gone_from_every_view_even_with_a_full_disk() -> None:
    shell = Shell()
    shell.login(1, "ann")
    shell.login(2, "bob")
    taken = shell.view(1, "ann").leases["lan", key("ann")].addresses[0]
    shell.full = True
    shell.load(document(absent=("bob",), fixed={"cid": str(taken)}))
    assert shell.dropped == {2: "login.removed"}
    view = shell.view(1, "ann")
    assert names(view) == {"ann", "cid", "dan"}
    owners = [lease.key for lease in view.leases.values() if taken in lease.addresses]
    assert owners == [key("cid")]
    shell.full = False
    due = shell.hub.next_timer()
    assert due == allocations.STORE_RETRY_S
    shell.perform(shell.hub.handle_timer(due, 0))
    assert len(shell.view(1, "ann").leases["lan", key("ann")].addresses) == 2


def test_a_store_that_is_slow_holds_up_nobody_and_is_asked_for_one_thing_at_a_time() -> None:
    shell = Shell()
    shell.login(1, "ann")
    shell.login(2, "bob")
    before = shell.view(1, "ann").leases["lan", key("ann")].addresses[0]
    moved = document(absent=("dan",), fixed={"cid": str(before)})
    effects = shell.hub.load(moved, moved.mediators[0], 0)
    (first,) = [effect for effect in effects if isinstance(effect, fx.Store)]
    shell.perform([effect for effect in effects if effect is not first])
    assert "dan" in names(shell.view(1, "ann")), "a store that works answers at once: one change, one view"
    shell.perform(shell.hub.store_is_slow())
    assert names(shell.view(1, "ann")) == {"ann", "bob", "cid"}
    newer = document(absent=("bob", "dan"), fixed={"cid": str(before)})
    effects = shell.hub.load(newer, newer.mediators[0], 0)
    assert not [effect for effect in effects if isinstance(effect, fx.Store)], "it owes an answer still"
    shell.perform(effects)
    assert names(shell.view(1, "ann")) == {"ann", "cid"}
    assert shell.dropped == {2: "login.removed"}
    shell.perform(shell.hub.handle_timer(1.0, 0))
    assert len(shell.stores) == 1
    shell.perform(shell.hub.stored(first.leases, first.ports, first.pairs, first.resting, 0))
    assert shell.view(1, "ann").leases["lan", key("ann")].addresses[0] == first.leases[0].address
    assert shell.hub.load(document(), document().mediators[0], 0)[-1:] != [first], (
        "what it has is not asked for again"
    )


def kinds(messages: list[w.Message]) -> list[str]:
    return [type(message).__name__ for message in messages]


def test_a_change_reaches_those_whom_it_concerns_as_a_difference_and_nobody_else() -> None:
    shell = Shell()
    for number, name in enumerate(NAMES, 1):
        shell.login(number, name)
    before = {number: len(sent) for number, sent in shell.sent.items()}
    shell.load(document(absent=("cid",)))
    news = {number: shell.sent[number][count:] for number, count in before.items()}
    assert kinds(news[1]) == kinds(news[2]) == ["ViewDelta", "Sealed"]
    assert news[4] == []
    delta = news[1][0]
    assert isinstance(delta, w.ViewDelta)
    assert delta.gone == [str(key("cid"))]
    assert delta.released == [w.LeaseName("lan", str(key("cid")))]
    assert (delta.members, delta.leases) == ([], [])
    assert replace(shell.view(1, "ann"), generation=0) == replace(shell.hub.view(key("ann")), generation=0)
    shell.load(document())
    assert names(shell.view(2, "bob")) == {"ann", "bob", "cid"}
    online = {member.name for member in shell.view(2, "bob").members.values() if member.online}
    assert online == {"ann", "bob"}


def test_whoever_comes_back_with_the_same_view_gets_its_seal_alone() -> None:
    shell = Shell()
    kept = replayed(shell.login(1, "bob"), key("bob"))
    shell.load(document())  # nothing that anybody sees is different
    shell.perform(shell.hub.disconnected(1))
    came = shell.give(2, msgspec.structs.replace(shell.proof(2, "bob"), view=kept.seal.digest))
    assert kinds(came) == ["Welcome", "Sealed"]
    again = replayed(came, key("bob"), kept)
    assert again.seal.generation > kept.seal.generation
    assert replace(again.view, generation=0) == replace(kept.view, generation=0)
    assert kinds(shell.give(2, w.Refresh())) == ["ViewRows", "Sealed"]


def test_whoever_comes_back_with_the_view_it_was_shown_last_gets_the_difference() -> None:
    shell = Shell()
    kept = replayed(shell.login(1, "bob"), key("bob"))
    shell.perform(shell.hub.disconnected(1))
    shell.load(document(absent=("cid",)))
    shell.load(document(absent=("cid",)))
    came = shell.give(2, msgspec.structs.replace(shell.proof(2, "bob"), view=kept.seal.digest))
    assert kinds(came) == ["Welcome", "ViewDelta", "Sealed"]
    again = replayed(came, key("bob"), kept)
    assert "cid" not in names(again.view)
    assert replace(again.view, generation=0) == replace(shell.hub.view(key("bob")), generation=0)


def test_a_difference_is_for_nobody_but_the_member_that_was_shown_the_view_before_it() -> None:
    shell = Shell()
    kept = replayed(shell.login(1, "bob"), key("bob"))
    shell.login(3, "ann")
    for number in (1, 3):
        shell.perform(shell.hub.disconnected(number))
    shell.load(document(absent=("cid",)))
    digests = {"ann": "", "bob": kept.seal.digest, "dan": kept.seal.digest}
    came = {
        name: shell.give(number, msgspec.structs.replace(shell.proof(number, name), view=digest))
        for number, (name, digest) in enumerate(digests.items(), 4)
    }
    assert "ViewDelta" in kinds(came["bob"])
    for name in ("ann", "dan"):  # one has lost its view, the other names a view that it was never shown
        assert kinds(came[name]) == ["Welcome", "ViewRows", "Sealed"]
    shell.perform(shell.hub.disconnected(5))  # and what it was shown last is not what it names
    shell.load(document())
    came["bob"] = shell.give(7, msgspec.structs.replace(shell.proof(7, "bob"), view="00" * 32))
    assert kinds(came["bob"]) == ["Welcome", "ViewRows", "Sealed"]


def test_all_who_see_the_same_cost_one_encoding_and_one_signature() -> None:
    signatures = 0

    def sign(data: bytes) -> bytes:
        nonlocal signatures
        signatures += 1
        return MEDIATOR.sign(data)

    shell = Shell()
    shell.hub = h.Hub(PIN, sign, SECRET, generation=200)
    shell.load(document())
    chunks = []
    for number, name in enumerate(("bob", "cid", "bob", "cid"), 1):
        nonce = shell.connect(number)
        login = make_login(PIN, nonce, NONCE, identity(name), key(name), private(name).sign)
        for effect in shell.hub.received(number, w.encode(login), 0.0, 0):
            if isinstance(effect, fx.Deliver) and len(effect.payloads) == 2:
                chunks.append(effect.payloads[0])
        shell.hub.disconnected(number)
    assert signatures == 1
    assert len(chunks) == 4
    assert chunks[2] is chunks[3]


def test_a_member_alone_in_no_network_sees_itself() -> None:
    shell = Shell()
    shell.login(4, "dan")
    assert names(shell.view(4, "dan")) == {"ann", "dan"}
    alone = document(absent=("ann",))
    networks = {**alone.networks, "work": replace(alone.networks["work"], member_names=())}
    shell.load(replace(alone, networks=networks))
    assert names(shell.view(4, "dan")) == {"dan"}


def test_two_offers_of_one_round_start_a_punch_on_both_sides() -> None:
    shell = Shell()
    shell.login(1, "ann")
    shell.login(2, "bob")
    candidates = [w.Candidate("host", "192.0.2.7:51820")]
    assert shell.give(1, w.Candidates(str(key("bob")), 4, candidates)) == []
    assert shell.sent[2][-1:] == [w.Introduction(str(key("ann")), 4, candidates)]
    shell.give(2, w.Candidates(str(key("ann")), 3, candidates))
    assert not any(isinstance(message, w.Punch) for message in shell.sent[1] + shell.sent[2])
    shell.give(2, w.Candidates(str(key("ann")), 4, candidates))
    assert shell.sent[1][-1:] == [w.Punch(str(key("bob")), introducer.PUNCH_AFTER_MS)]
    assert shell.sent[2][-1:] == [w.Punch(str(key("ann")), introducer.PUNCH_AFTER_MS)]


@pytest.mark.parametrize("peer", ["dan", "nobody", "bob"])
def test_whoever_may_not_see_a_peer_gets_silence(peer: str) -> None:
    shell = Shell()
    shell.login(2, "bob")
    shell.login(4, "dan")
    before = len(shell.sent[4])
    assert shell.give(2, w.Candidates(str(key(peer)), 1, [])) == []
    assert shell.give(2, w.RelayRequest(str(key(peer)))) == []
    assert len(shell.sent[4]) == before
    assert shell.dropped == {}


def test_a_grant_is_for_both_members_own_ports_and_expires() -> None:
    shell = Shell()
    shell.login(1, "ann")
    shell.unix_s = 1_000_000
    (answer,) = shell.give(1, w.RelayRequest(str(key("bob"))))
    assert isinstance(answer, w.RelayGrant)
    ports = dict(shell.stores[0].ports)
    allocation = Allocation(ports[key("ann")], ports[key("bob")], answer.expires_s)
    assert answer.allocation == allocation.pack().hex()
    assert answer.key == allocation.key(SECRET).hex()
    assert answer.address == f"0.0.0.0:{ports[key('bob')]}"
    assert answer.expires_s > 1_000_000
    assert len(set(ports.values())) == len(ports)


APART = Ed25519PrivateKey.from_private_bytes(b"\x77" * 32)


def with_relays() -> Document:
    """A relay apart with ports of its own, and one that has room for a single member."""
    relays = [
        ("50000-50999", str(IdentityKey(APART.public_key().public_bytes_raw()))),
        ("60000-60000", str(identity("narrow"))),
    ]
    mediators = [
        {"url": "netctl://192.0.2.1:8443", "identity": [str(PIN)], "relayPorts": "40000-40999"},
        *(
            {"url": f"netctl://192.0.2.{9 + n}:8443", "identity": [pin], "role": "relay", "relayPorts": ports}
            for n, (ports, pin) in enumerate(relays)
        ),
    ]
    members = {
        name: {"wireguard": str(key(name)), "identity": str(identity(name))} for name in ("ann", "bob")
    }
    members["phone"] = {"wireguard": str(key("phone"))}
    networks = {"lan": {"mode": "routed", "ipv4": "10.1.0.0/28", "members": ["*"]}}
    text = {"apiVersion": "netctl/v1", "mediators": mediators, "members": members, "networks": networks}
    return load_document(json.dumps(text)).document


def test_a_member_that_relays_does_so_for_its_own_networks_alone() -> None:
    """gate is in `home` with ann and bob; ann is with eve in another network."""
    members: dict[str, dict[str, object]] = {
        name: {"wireguard": str(key(name)), "identity": str(identity(name))} for name in ("ann", "bob", "eve")
    }
    own = IdentityKey(APART.public_key().public_bytes_raw())
    members["gate"] = {
        "wireguard": str(key("gate")),
        "identity": str(own),
        "endpoints": ["192.0.2.9:51820"],
        "relay": {"relayPorts": "50000-50999"},
    }
    text = {
        "apiVersion": "netctl/v1",
        "mediators": [{"url": "netctl://192.0.2.1:8443", "identity": [str(PIN)]}],
        "members": members,
        "networks": {
            "home": {"mode": "routed", "ipv4": "10.1.0.0/28", "members": ["ann", "bob", "gate"]},
            "away": {"mode": "routed", "ipv4": "10.2.0.0/28", "members": ["ann", "eve"]},
        },
    }
    shell = Shell(with_relays())
    shell.hub = h.Hub(
        PIN, MEDIATOR.sign, SECRET, generation=200, agree=lambda relay: agreed_secret(MEDIATOR, PIN, relay)
    )
    shell.load(load_document(json.dumps(text)).document)
    shell.login(1, "ann")
    (answer,) = shell.give(1, w.RelayRequest(str(key("bob")), str(own)))
    assert isinstance(answer, w.RelayGrant)
    assert answer.relay == str(own)
    assert shell.give(1, w.RelayRequest(str(key("eve")), str(own))) == [], "gate has no network with eve"
    assert shell.give(1, w.RelayRequest(str(key("gate")), str(own))) == [], (
        "nobody needs a relay to the relay"
    )
    assert shell.dropped == {}


@pytest.mark.parametrize("several", [False, True])
def test_a_grant_for_a_relay_apart_is_good_there_and_for_its_own_ports(several: bool) -> None:
    """Of several mediators on one store all give out the ports of the first entry's range, whatever their own is."""
    shell = Shell(with_relays())
    shell.hub = h.Hub(
        PIN, MEDIATOR.sign, SECRET, generation=200, agree=lambda relay: agreed_secret(MEDIATOR, PIN, relay)
    )
    document = with_relays()
    if several:
        shell.hub.follow(200)
        other = replace(document.mediators[0], relay_ports=(30_000, 30_999))
        shell.perform(shell.hub.load(document, other, 0))
    else:
        shell.load(document)
    shell.login(1, "ann")
    ports = dict(shell.stores[-1].ports)
    apart = IdentityKey(APART.public_key().public_bytes_raw())
    (answer,) = shell.give(1, w.RelayRequest(str(key("bob")), str(apart)))
    assert isinstance(answer, w.RelayGrant)
    own, peer = (ports[key(name)] + 10_000 for name in ("ann", "bob"))
    allocation = Allocation(own, peer, answer.expires_s)
    assert (answer.relay, answer.address) == (str(apart), f"0.0.0.0:{peer}")
    assert answer.allocation == allocation.pack().hex()
    assert answer.key == allocation.key(agreed_secret(APART, PIN, apart)).hex()
    narrow = str(identity("narrow"))
    assert shell.give(1, w.RelayRequest(str(key("bob")), narrow)) == [], "it has no port for one of them"
    assert shell.give(1, w.RelayRequest(str(key("bob")), str(PIN))) == [], "a mediator is no relay apart"
    assert shell.give(1, w.RelayRequest(str(key("phone")), str(apart))) == [], "an app does not go there"
    assert shell.dropped == {}


def test_a_member_that_floods_offers_is_cut_short_and_recovers() -> None:
    shell = Shell()
    shell.login(1, "ann")
    shell.login(2, "bob")
    offer = w.Candidates(str(key("bob")), 1, [])

    def count(number: int, now: float) -> int:
        before = len(shell.sent[2])
        for _ in range(number):
            shell.give(1, offer, now)
        return len(shell.sent[2]) - before

    assert count(int(introducer.MAX_OFFERS_BURST) + 100, 0.0) == introducer.MAX_OFFERS_BURST
    assert count(200, 2.0) == 2 * introducer.MAX_OFFERS_PER_S


def test_a_login_is_told_which_store_the_mediator_works_on() -> None:
    shell = Shell()
    shell.hub.restore({}, {}, store="abc")
    (welcome,) = [message for message in shell.login(1, "ann") if isinstance(message, w.Welcome)]
    assert welcome.store == "abc"


# -- one of several mediators -------------------------------------------------------------------------------


def test_a_member_that_has_seen_a_newer_state_is_answered_after_a_look_at_the_store() -> None:
    shell = Shell()
    shell.hub.follow(200)
    shell.load(document())
    newer = msgspec.structs.replace(shell.proof(1, "ann"), newest=205)
    (effect,) = shell.hub.received(1, w.encode(newer), 0.0, 0)
    assert effect == fx.LookFirst(1, newer)
    shell.hub.follow(205)
    shell.load(document())
    shell.perform(shell.hub.login_again(1, newer, 0.0))
    welcome = next(message for message in shell.sent[1] if isinstance(message, w.Welcome))
    assert welcome.generation == 205
    # One that is ahead of the store itself, or of one that does not answer, is looked for once.
    further = msgspec.structs.replace(shell.proof(2, "bob"), newest=2**40)
    assert [type(one) for one in shell.hub.received(2, w.encode(further), 0.0, 0)] == [fx.LookFirst]
    shell.perform(shell.hub.login_again(2, further, 0.0))
    assert any(isinstance(message, w.Welcome) for message in shell.sent[2])
    gone = msgspec.structs.replace(shell.proof(3, "bob"), newest=2**40)
    shell.hub.disconnected(3)
    assert shell.hub.login_again(3, gone, 0.0) == []


def test_a_member_that_logs_in_all_the_time_does_not_have_the_store_read_all_the_time() -> None:
    shell = Shell()
    shell.hub.follow(200)
    shell.load(document())
    asked = 0
    for number in range(10, 10 + 2 * pace.LOGINS_BURST):
        ahead = msgspec.structs.replace(shell.proof(number, "ann"), newest=2**40)
        effects = shell.hub.received(number, w.encode(ahead), 0.0, 0)
        asked += sum(isinstance(effect, fx.LookFirst) for effect in effects)
        shell.perform(effects)
    assert asked == pace.LOGINS_BURST
    assert set(shell.dropped.values()) == {"session.too-often"}


def test_a_lone_mediator_looks_for_nobody_and_counts_by_itself() -> None:
    shell = Shell()
    before = shell.hub.generation
    shell.load(document())
    assert shell.hub.generation > before
    shell.give(1, msgspec.structs.replace(shell.proof(1, "ann"), newest=2**40))
    assert any(isinstance(message, w.Welcome) for message in shell.sent[1])


def test_one_that_cannot_show_the_state_of_the_store_keeps_its_number_and_asks_for_nothing() -> None:
    shell = Shell(document(absent=("cid",)))
    shell.hub.follow(200)
    shell.load(document(absent=("cid",)))
    shell.hub.follow(None)
    asked = len(shell.stores)
    shell.load(document())
    assert (shell.hub.generation, len(shell.stores)) == (200, asked)
    shell.hub.follow(207)
    shell.load(document())
    assert (shell.hub.generation, len(shell.stores)) == (207, asked + 1)
    assert shell.stores[-1].basis == Basis(207, shell.hub.document.digest)
