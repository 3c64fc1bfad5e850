"""The words in which the page and `netctl top` show a peer. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from netctl.model.forpeople import age, counted, size
from netctl.ui.peerhistory import Sample
from netctl.wire.agentrequests import DoctorReply, PeerState, StatusReply

PATHS = {
    "lan": "same LAN",
    "direct": "direct",
    "relay-udp": "relay",
    "relay-tls": "relay (TLS)",
    "idle": "idle: opens with the first packet",
    "none": "no path",
}
"""The words for each kind of path."""
PRESENCE = {"online": "online", "silent": "not answering", "offline": "offline", "unknown": "not known"}
"""The words for each presence."""
PORTS = {"sequential": ", ports counted", "block": ", random ports of a block", "random": ", random ports"}
"""How a NAT chooses ports, as the end of a sentence."""
MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Cells:
    """A peer's row as texts, and the numbers of the newest sample for the plots."""

    presence: str
    """``online``, ``silent``, ``offline`` or ``unknown``."""
    path: str
    path_text: str
    rtt: str
    received: str
    sent: str
    handshake: str
    numbers: tuple[float | None, float, float]
    """Round trip in milliseconds (None: not known), bytes a second received, and bytes a second sent."""


def cells(peer: PeerState, sample: Sample | None) -> Cells:
    """The row of a peer, with the rates of its newest sample."""
    rx, tx = (sample.rx_rate, sample.tx_rate) if sample is not None else (0.0, 0.0)
    return Cells(
        presence=(here := presence(peer)),
        path="silent" if here == "silent" else peer.path,
        path_text=PRESENCE[here] if here == "silent" else PATHS.get(peer.path, peer.path),
        rtt=round_trip(peer.rtt_ms),
        received=rate(rx),
        sent=rate(tx),
        handshake=handshake(peer.last_handshake_s),
        numbers=(round(peer.rtt_ms, 1) if peer.rtt_ms is not None else None, round(rx), round(tx)),
    )


def presence(peer: PeerState) -> str:
    """``online``, ``silent``, ``offline`` or ``unknown``. Whether the peer answers this host counts more than what the
    mediator says."""
    if peer.answers is None:
        if not peer.presence_known:
            return "unknown"
        return "online" if peer.online else "offline"
    if peer.answers:
        return "online"
    return "silent" if peer.online else "offline"


def edge(peer: PeerState) -> str:
    """The kind of line to a peer in a picture of the paths: its path, ``silent`` or ``none``."""
    here = presence(peer)
    return peer.path if here in ("online", "unknown") else "none" if here == "offline" else here


def round_trip(rtt_ms: float | None) -> str:
    """A round trip: ``3.2 ms``, ``48 ms``; empty if it is not known."""
    if rtt_ms is None:
        return ""
    return f"{rtt_ms:.1f} ms" if rtt_ms < 10 else f"{rtt_ms:.0f} ms"


def rate(bytes_s: float) -> str:
    """A rate: ``1.2 MB/s``; empty if it is less than a byte a second."""
    return f"{size(round(bytes_s))}/s" if bytes_s >= 1 else ""


def totals(peer: PeerState) -> str:
    """What has passed between this host and a peer since its tunnel was made: ``1.2 MB received, 3.4 kB
    sent``."""
    return f"{size(peer.rx_bytes)} received, {size(peer.tx_bytes)} sent"


def handshake(seconds: float | None) -> str:
    """How long ago the last handshake was. Seconds are not shown, because WireGuard renews its keys every two
    minutes."""
    if seconds is None:
        return "never"
    return "under a minute ago" if seconds < MINUTE_S else f"{age(max(seconds, 2 * MINUTE_S))} ago"


def addresses(peer: PeerState, network: str) -> list[str]:
    """A peer's addresses in a network."""
    return peer.addresses.get(network, [])


def matches(peer: PeerState, words: str, groups: Collection[str], group: str) -> bool:
    """Whether a search finds a peer: every word is in its name, an address, its path or a group."""
    if group and group not in groups:
        return False
    texts = [peer.name, peer.path, PATHS.get(peer.path, ""), *groups]
    texts += [text for held in peer.addresses.values() for text in held]
    haystack = " ".join(texts).lower()
    return all(word in haystack for word in words.lower().split())


def troubles(status: StatusReply) -> list[str]:
    """What is wrong with this host, one line for each."""
    said = list(status.conditions)
    if status.down.everything:
        said.append("this host is down: `netctl up` brings its networks up")
    link = status.mediator
    if link.state not in ("none", "connected"):
        why = f": {link.error}" if link.error else ""
        since = f" for {age(link.since_s)}" if link.since_s >= 2 * MINUTE_S else ""
        said.append(f"the mediator is not reached{since}{why}; tunnels that are up stay up")
    said += [
        f"network '{name}': {network.refused}" for name, network in status.networks.items() if network.refused
    ]
    if status.drift:
        count = len(status.drift)
        first = status.drift[0].line
        more = f", and in {counted(count - 1, 'more way')}" if count > 1 else ""
        said.append(f"this host departs from the document: {first}{more}")
    return list(dict.fromkeys(said))


def own_nat(doctor: DoctorReply) -> str:
    """This host's NAT in the words of RFC 4787, and how it chooses ports."""
    seen = doctor.nat.ipv4
    if seen.udp == "blocked":
        return "unknown: UDP is blocked"
    if seen.mapping == "none":
        return "none: it has a public address"
    if seen.mapping == "unknown":
        return "unknown"
    if seen.mapping == "endpoint-independent":
        return "endpoint-independent mapping"
    ports = PORTS.get(doctor.allocation.kind, "") if doctor.allocation is not None else ""
    return f"{seen.mapping} mapping (symmetric){ports}"
