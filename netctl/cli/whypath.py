"""Print the path between two members, and why there is no better path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from netctl.cli import output
from netctl.ui.peerview import own_nat
from netctl.wire.agentrequests import DoctorReply, PeerState

IDLE = "idle: opens with the first packet"
"""State of a lazy peer without traffic."""


@dataclass(frozen=True, slots=True)
class PeerView:
    """A peer as this host's agent sees it. `ping_ms`: round trip by a relay; `down`: this host is down."""

    state: PeerState
    plain_state: Any
    ping_ms: float | None
    doctor: DoctorReply
    plain_doctor: Any
    down: bool

    def plain(self) -> object:
        """The view for programs: all that the agent says."""
        allocation = self.doctor.allocation
        nat = {**self.plain_doctor["nat"]["ipv4"], "ports": allocation.kind if allocation else None}
        return {
            **self.plain_state,
            "ping_ms": self.ping_ms,
            "own_nat": nat,
            "port_mapping": self.plain_doctor["port_mapping"],
            "down": self.down,
        }


def say_path(own: str, view: PeerView) -> None:
    """Print the path and why there is no better one. `own`: this host's member name."""
    peer, mapping = view.state, view.doctor.port_mapping
    name = peer.name
    rtt = f", round trip {peer.rtt_ms:.1f} ms" if peer.rtt_ms is not None else ""
    if view.ping_ms is not None:
        rtt = f", a ping through it takes {view.ping_ms:.1f} ms"
    since = f", for {output.age(peer.since_s)}" if peer.since_s is not None else ""
    at = peer.via or peer.endpoint
    kind = IDLE if peer.path == "idle" else peer.path
    output.check(peer.path != "none", f"path: {kind}{f' at {at}' if at else ''}{rtt}{since}")
    if view.down:
        output.line("     this host is down: `netctl up` starts it")
        return
    if not peer.online and not peer.presence_known:
        output.line(f"     whether {name} is online is not known: the mediator has not said it yet")
    elif not peer.online:
        asks = "is it switched on?" if peer.stock else "is its agent running, and does it reach the mediator?"
        output.line(f"     {name} is not online: {asks}")
    if peer.path not in ("none", "idle"):
        last = peer.last_handshake_s
        heard = f"last handshake {output.age(last)} ago" if last is not None else "no handshake yet"
        output.line(f"     {heard}, {output.size(peer.rx_bytes)} received from {name}")
    if peer.mtu is not None:
        output.line(
            f"     packets of up to {peer.mtu} bytes pass: larger ones were tried, and routes keep to it"
        )
    if peer.hindrance:
        output.line(f"     not direct: {peer.hindrance}")
    for line in peer.tried:
        output.line(f"     {line}")
    output.line(f"     NAT of {own}: {own_nat(view.doctor)}")
    if peer.nat:
        output.line(f"     NAT of {name}: {peer.nat}")
    if mapping.external:
        output.line(f"     this host's router keeps {mapping.external} open for it ({mapping.protocol})")
    if peer.condition:
        output.warning(peer.condition)
