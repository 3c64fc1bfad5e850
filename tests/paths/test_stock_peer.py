"""A peer without an agent: the relay is its only path, and nobody waits for it to speak."""

from __future__ import annotations

from mediator.core.relay_grants import grant
from netctl.model.addresses import SocketAddress
from netctl.model.hoststate import PeerStatus
from netctl.paths.effects import Effect, PathChanged, SendControl, SendDatagram, SetEndpoint
from netctl.wire import relay
from netctl.wire.control import Candidate, Candidates, Introduction, RelayGrant, RelayRequest
from tests.support.pathsim import STUN, World

SECRET = bytes(32)
RELAY = SocketAddress("203.0.113.9", 40003)
UNIX = 1_800_000_000
GRANTED = grant(SECRET, 40000, 40003, UNIX + 3600)


def answer(
    effects: list[Effect], message_of: type[relay.Bound] | type[relay.Cookie], *, there: bool
) -> bytes:
    """What the relay says to the last thing that it was sent."""
    sent = [e for e in effects if isinstance(e, SendDatagram) and e.destination == RELAY][-1]
    key = bytes.fromhex(GRANTED.key)
    asked = relay.open_message(sent.data, key)
    assert isinstance(asked, relay.Bind | relay.Confirm)
    if message_of is relay.Cookie:
        return relay.seal(relay.Cookie(asked.transaction, b"c" * relay.COOKIE_LEN), key)
    flags = relay.BoundFlag.PEER_BOUND if there else relay.BoundFlag.NONE
    return relay.seal(relay.Bound(asked.transaction, flags, SocketAddress("198.51.100.1", 1)), key)


def test_an_app_is_on_the_relay_and_is_offered_nothing() -> None:
    world = World()
    host, phone = world.host("a", "192.168.1.10"), world.host("phone", "192.168.1.11")
    manager, now = host.manager, 100.0
    manager.set_local([Candidate("host", "192.168.1.10:51820")], now)
    manager.set_stun(STUN, now)
    effects = manager.set_peers([phone.key], now, stock=frozenset((phone.key,)))
    effects += manager.control_up(now)
    assert SendControl(RelayRequest(str(phone.key))) in effects
    granted = RelayGrant(str(phone.key), str(RELAY), GRANTED.allocation, GRANTED.key, GRANTED.expires_s)
    effects = manager.handle_message(granted, now)
    effects = manager.handle_datagram(answer(effects, relay.Cookie, there=False), RELAY, now)
    asked = effects
    effects = manager.handle_datagram(answer(asked, relay.Bound, there=False), RELAY, now)
    assert not [e for e in effects if isinstance(e, SetEndpoint)]
    assert manager.status()[phone.key].kind == "none"
    # What the mediator says of its presence is nothing to go by: the relay goes on being asked.
    manager.peer_online(phone.key, False, now)
    later: list[Effect] = []
    for step in range(1, 31):
        later += manager.handle_timer(now + step)
    assert [e for e in later if isinstance(e, SendDatagram) and e.destination == RELAY]
    effects = manager.handle_datagram(answer(later, relay.Bound, there=True), RELAY, now + 30)
    assert SetEndpoint(phone.key, RELAY) in [*effects, *manager.handle_timer(now + 40)]
    assert [e.status.kind for e in effects if isinstance(e, PathChanged)] == ["relay-udp"]
    # WireGuard that hears it elsewhere is set right, and no probe ever goes out.
    stray = PeerStatus(SocketAddress("198.51.100.77", 9), 0, 5, 5)
    effects = manager.observe(phone.key, stray, now + 41)
    assert SetEndpoint(phone.key, RELAY) in effects
    told = manager.handle_message(
        Introduction(str(phone.key), 7, [Candidate("host", "192.0.2.7:7")]), now + 42
    )
    everything = [*later, *effects, *told]
    for step in range(43, 200):
        everything += manager.handle_timer(now + step)
    assert not [e for e in everything if isinstance(e, SendControl) and isinstance(e.message, Candidates)]
    places = {e.destination for e in everything if isinstance(e, SendDatagram)}
    assert places <= {RELAY, *STUN}


def test_a_member_that_gets_an_agent_is_a_peer_like_any_other() -> None:
    world = World()
    host, phone = world.host("a", "192.168.1.10"), world.host("phone", "192.168.1.11")
    manager = host.manager
    manager.set_local([Candidate("host", "192.168.1.10:51820")], 100.0)
    manager.set_peers([phone.key], 100.0, stock=frozenset((phone.key,)))
    manager.control_up(100.0)
    effects = manager.set_peers([phone.key], 101.0)
    for step in range(102, 110):
        effects += manager.handle_timer(step)
    assert [e for e in effects if isinstance(e, SendControl) and isinstance(e.message, Candidates)]


class Apart:
    """A relay apart, as the host sees it: it answers every message, and knows whether the app is there."""

    def __init__(self, name: str, host: str, secret: bytes) -> None:
        self.name, self.at = name, SocketAddress(host, 40003)
        self.granted = grant(secret, 40000, 40003, UNIX + 3600)
        self.app_is_here = False

    def grant(self, peer: str) -> RelayGrant:
        given = self.granted
        return RelayGrant(
            peer, f"0.0.0.0:{given.port}", given.allocation, given.key, given.expires_s, self.name
        )

    def answer(self, data: bytes) -> bytes:
        key = bytes.fromhex(self.granted.key)
        asked = relay.open_message(data, key)
        if isinstance(asked, relay.Bind):
            return relay.seal(relay.Cookie(asked.transaction, b"c" * relay.COOKIE_LEN), key)
        assert isinstance(asked, relay.Confirm)
        flags = relay.BoundFlag.PEER_BOUND if self.app_is_here else relay.BoundFlag.NONE
        return relay.seal(relay.Bound(asked.transaction, flags, SocketAddress("198.51.100.1", 1)), key)


def test_an_app_is_met_at_whichever_relay_it_goes_to() -> None:
    """Its configuration names one, which only the app knows; another configuration may name another one."""
    world = World()
    host, phone = world.host("a", "192.168.1.10"), world.host("phone", "192.168.1.11")
    manager, now = host.manager, 100.0
    names = [f"ed25519:{letter * 42}A=" for letter in "BCDE"]
    relays = [Apart(name, f"203.0.113.{20 + n}", bytes([n + 1]) * 32) for n, name in enumerate(names)]
    member = f"ed25519:{'F' * 42}A="
    places = {one.name: [SocketAddress(one.at.host, 3478)] for one in relays}
    places[member] = [SocketAddress("203.0.113.30", 3478)]
    manager.set_relays(places, now, {member: frozenset({phone.key})})
    asked: set[str] = set()
    endpoints: list[SocketAddress] = []

    def play(effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SetEndpoint) and endpoints[-1:] != [effect.endpoint]:
                endpoints.append(effect.endpoint)
            if isinstance(effect, SendControl) and isinstance(effect.message, RelayRequest):
                asked.add(effect.message.relay)
                for one in relays:
                    if effect.message.relay == one.name:
                        play(manager.handle_message(one.grant(str(phone.key)), now, (one.at,)))
            if isinstance(effect, SendDatagram):
                for one in relays:
                    if effect.destination == one.at:
                        play(manager.handle_datagram(one.answer(effect.data), one.at, now))

    def passes(seconds: int) -> None:
        nonlocal now
        for _ in range(seconds):
            now += 1
            play(manager.handle_timer(now))

    play(manager.set_peers([phone.key], now, stock=frozenset((phone.key,))))
    play(manager.control_up(now))
    passes(30)
    assert asked == {"", *names}, "all relays, and not the member that relays for others with agents"
    assert manager.status()[phone.key].kind == "none"
    relays[3].app_is_here = True
    passes(30)
    assert endpoints == [relays[3].at]
    assert manager.status()[phone.key].kind == "relay-udp"
    # A new configuration names another relay; the old one has not forgotten the app yet.
    relays[1].app_is_here = True
    passes(30)
    assert endpoints == [relays[3].at], "both say that the app is there: WireGuard knows better"
    play(manager.observe(phone.key, PeerStatus(relays[1].at, 0, 5, 5), now))
    assert manager.status()[phone.key].endpoint == relays[1].at
    relays[3].app_is_here = False
    passes(90)
    assert manager.status()[phone.key].endpoint == relays[1].at
    assert endpoints == [relays[3].at]
