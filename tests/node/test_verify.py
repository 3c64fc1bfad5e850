"""After an apply: which peers are waited for, and what is said of those that do not answer."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass, field

from netctl.config import load_document
from netctl.model.document import Document
from netctl.model.hoststate import HostState, Peer, WireGuardLink
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.model.view import View, ViewMember
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node.context import HANDSHAKE_WAIT_S, Context
from netctl.node.reconciling import verify
from netctl.node.state import NodeState

ME, NAS, PHONE, TV = (WireGuardKey(bytes([number]) * 32) for number in range(1, 5))
NAMES = {ME: "me", NAS: "nas", PHONE: "phone", TV: "tv"}


def document() -> Document:
    """All but the phone have an agent."""
    members = {name: {"wireguard": str(key)} for key, name in NAMES.items()}
    for key in (ME, NAS, TV):
        members[NAMES[key]]["identity"] = str(IdentityKey(key.raw))
    text = {
        "apiVersion": "netctl/v1",
        "id": "vrfy-0001",
        "mediators": [{"url": "netctl://192.0.2.1:8443", "identity": [str(IdentityKey(b"m" * 32))]}],
        "members": members,
        "networks": {"net": {"mode": "routed", "ipv4": "10.1.0.0/24", "members": ["*"], "lazy": "never"}},
    }
    return load_document(json.dumps(text)).document


@dataclass
class Host:
    """Drives one verification. `live`: the peers that have a session at present."""

    online: dict[WireGuardKey, bool | None]
    lazy: frozenset[WireGuardKey] = frozenset()
    live: frozenset[WireGuardKey] = frozenset()
    news: dict[float, dict[WireGuardKey, bool | None]] = field(default_factory=dict)
    """What the mediator says of presence, by time."""
    knocked: set[WireGuardKey] = field(default_factory=set)
    took_s: float = 0.0
    turn: int = 0
    """Of the port that is wanted in the place of the usual one."""

    def verified(self, before: frozenset[WireGuardKey] = frozenset()) -> on.Verified:
        members = {key: ViewMember(NAMES[key], key, there) for key, there in self.online.items()}
        peers = {
            key: Peer(key, frozenset({ipaddress.ip_network(f"10.1.0.{number}/32")}), lazy=key in self.lazy)
            for number, key in enumerate(self.online)
        }
        link = WireGuardLink(ME, 51820, 1420, frozenset(), peers)
        state = NodeState(view=View(1, members, {}, ""), desired=HostState(link), port_turn=self.turn)
        context = Context(ME, "boot", state)
        job = verify(context, document(), before)
        answer: on.Event | None = None
        while True:
            try:
                step = next(job) if answer is None else job.send(answer)
            except StopIteration as end:
                self.knocked = {
                    key for notice in context.notices if isinstance(notice, do.Knock) for key in notice.keys
                }
                self.took_s = context.now
                result: on.Verified = end.value
                return result
            if isinstance(step, do.Wait):
                context.now = step.until_s
                for at in [at for at in self.news if at <= context.now]:
                    context.state = context.state.present(self.news.pop(at))
                answer = on.Woken()
            else:
                assert isinstance(step, do.Observe)
                answer = on.Observed(self.live)


def test_a_peer_whose_presence_is_not_known_yet_is_waited_for() -> None:
    """A large view says of nobody that it is online: in a network that is never lazy the apply warned of nobody."""
    host = Host({NAS: None}, news={0.3: {NAS: True}})
    found = host.verified()
    assert found.silent == ("nas",)
    assert found.warnings == ("no handshake yet with nas: online, but not heard",)
    assert host.knocked == {NAS}
    assert host.took_s >= HANDSHAKE_WAIT_S


def test_a_peer_that_turns_out_to_be_offline_is_waited_for_no_longer() -> None:
    host = Host({NAS: None, TV: None}, news={0.3: {NAS: False, TV: False}})
    assert host.verified() == on.Verified()
    assert host.took_s < 1.0
    assert not host.knocked


def test_of_a_peer_that_nobody_says_anything_of_it_is_said_that_it_may_be_offline() -> None:
    found = Host({NAS: None, TV: True}).verified()
    assert (found.cut_off, found.silent, found.unknown) == (None, ("tv",), ("nas",))
    assert found.warnings[1] == "no handshake yet with nas: perhaps offline"
    answers = Host({NAS: None}, live=frozenset({NAS}))
    assert answers.verified() == on.Verified()
    assert answers.took_s == 0.0


def test_stock_apps_and_lazy_peers_are_not_waited_for() -> None:
    """The first are at no mediator, and the tunnels of the others open with the first packet."""
    host = Host({PHONE: None, NAS: None, TV: False}, lazy=frozenset({NAS}))
    assert host.verified() == on.Verified()
    assert host.took_s == 0.0


def test_a_host_that_leaves_its_port_waits_for_nobody_before_it_has_the_next_one() -> None:
    """No peer is told of the port that it leaves, so none can answer; where tunnels were up, they are waited for."""
    host = Host({NAS: True}, turn=1)
    assert host.verified() == on.Verified()
    assert host.took_s == 0.0
    assert Host({NAS: True}, turn=1).verified(frozenset({NAS})).silent == ("nas",)
    assert Host({NAS: True}).verified().silent == ("nas",)


def test_an_unknown_peer_that_was_heard_before_decides_whether_the_host_is_cut_off() -> None:
    found = Host({NAS: None, TV: None}).verified(frozenset({NAS}))
    assert found.cut_off == "no tunnel that was up before answers (nas)"
    assert found.unknown == ("tv",)
