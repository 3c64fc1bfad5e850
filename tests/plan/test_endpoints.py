"""A fixed endpoint is where a peer is called first; where it answers from is WireGuard's business."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from ipaddress import ip_address

from netctl.config import load_document
from netctl.config.resolve.endpointchanges import called_elsewhere
from netctl.engine import FakeEngine, apply_plan
from netctl.engine.checkpoint import from_plain, to_plain
from netctl.model.addresses import SocketAddress, host_prefix
from netctl.model.hoststate import HostState, Peer, WireGuardLink, insisting, is_session
from netctl.model.keys import WireGuardKey
from netctl.plan import describe, diff

OWN, KEY, OTHER = (WireGuardKey(hashlib.blake2s(bytes([number])).digest()) for number in range(3))
WRITTEN, SEEN = SocketAddress("192.0.2.1", 51820), SocketAddress("198.51.100.1", 4711)


def state(endpoint: SocketAddress, *, is_live: bool = False) -> HostState:
    peers = {
        key: Peer(key, frozenset({host_prefix(ip_address(f"10.9.0.{n}"))}), endpoint, is_live=is_live)
        for n, key in enumerate((KEY, OTHER), 2)
    }
    return HostState(wireguard=WireGuardLink(OWN, 51820, 1420, frozenset(), peers))


def test_a_live_peer_that_has_roamed_is_no_difference() -> None:
    assert not diff(state(WRITTEN), state(SEEN, is_live=True))
    assert len(diff(state(WRITTEN), state(SEEN)).changes) == 2, (
        "without a session it is called where it is written"
    )


def test_a_new_endpoint_is_set_also_where_the_peer_is_live() -> None:
    plan = diff(insisting(state(WRITTEN), {KEY}), state(SEEN, is_live=True))
    (line,) = describe(plan)
    assert KEY.short in line
    assert "endpoint" in line
    assert insisting(insisting(state(WRITTEN)), frozenset()) == state(WRITTEN)
    assert not diff(insisting(insisting(state(WRITTEN)), frozenset()), state(SEEN, is_live=True))


class Roaming(FakeEngine):
    """Its peers answer from elsewhere as soon as they are called."""

    def read(self) -> HostState:
        found = super().read()
        if found.wireguard is None:
            return found
        peers = {
            key: replace(peer, endpoint=SEEN, is_live=True) for key, peer in found.wireguard.peers.items()
        }
        return replace(found, wireguard=replace(found.wireguard, peers=peers))


def test_an_apply_stands_though_the_peers_answer_from_elsewhere() -> None:
    engine = Roaming()
    assert apply_plan(engine, state(WRITTEN)).error is None
    assert apply_plan(engine, insisting(state(WRITTEN))).error is None
    assert apply_plan(engine, state(WRITTEN)).changed == 0


def test_a_checkpoint_brings_endpoints_back_from_wherever_they_are() -> None:
    checkpoint = from_plain(to_plain(state(WRITTEN, is_live=True)))
    assert len(diff(checkpoint, state(SEEN, is_live=True)).changes) == 2


def test_only_what_the_document_calls_elsewhere_is_called_elsewhere() -> None:
    def document(one: str, mediators: str = "[]") -> str:
        return f"""apiVersion: netctl/v1
mediators: {mediators}
members:
  a: {{wireguard: "{KEY}", endpoints: ["{one}:51820"]}}
  b: {{wireguard: "{OTHER}", endpoints: ["192.0.2.2:51820"]}}
networks:
  n: {{mode: routed, ipv4: 10.9.0.0/24, members: ["*"], addresses: {{a: 10.9.0.2, b: 10.9.0.3}}}}
"""

    before, after = (load_document(document(one)).document for one in ("192.0.2.1", "192.0.2.9"))
    assert called_elsewhere(before, after) == {KEY}
    assert called_elsewhere(None, after) == frozenset()
    assert called_elsewhere(after, after) == frozenset()


def test_a_session_lasts_as_long_as_its_keys() -> None:
    assert is_session(1000.0, 1179.0)
    assert not is_session(1000.0, 1180.0)
    assert not is_session(0.0, 1.0)
