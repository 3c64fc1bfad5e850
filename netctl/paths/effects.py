"""The effects that the path manager returns to its shell, and the status of a pair's path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from netctl.model.addresses import SocketAddress
from netctl.model.keys import WireGuardKey
from netctl.wire.control import Candidates, RelayRequest

PathKind = Literal["lan", "direct", "relay-udp", "relay-tls", "idle", "none"]
"""`idle`: nobody talks to the peer, and its tunnel opens with the first packet."""


@dataclass(frozen=True, slots=True)
class PathStatus:
    """The present path to one peer."""

    kind: PathKind = "none"
    endpoint: SocketAddress | None = None
    rtt_ms: float | None = None
    """Round trip between the two members; over a relay it is measured only while somebody watches, and else None."""
    since_s: float = 0.0
    """`now` (monotonic seconds) when this path was chosen."""
    tried: tuple[str, ...] = ()
    """One line for each candidate that is not used: address, kind, and the reason."""
    peer_nat: str = ""
    """The peer's IPv4 NAT in words, from the peer's offer; empty: no offer yet."""
    blocker: str | None = None
    """Why there is no direct path, as far as the two NATs explain it."""
    mtu: int | None = None
    """The largest packet of the tunnel in bytes that passes on the path; None: as large as the tunnels carry."""
    distrust: str | None = None
    """A direct address that answers probes but carries no data, and the reason, in words."""
    answers: bool | None = None
    """Whether the peer answers now. None: nobody watches, so the peer is not asked, or it cannot be known."""
    opened_s: float | None = None
    """Seconds from the engine's first packet, which opened the pair, to this path. None: no packet did, or the
    path is a later one than the first direct path."""


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """Send from the WireGuard port; `ttl` None: the system's default. A failure to send is no error."""

    destination: SocketAddress
    data: bytes
    ttl: int | None = None
    whole: bool = False
    """Send unfragmented or not at all: a router that would fragment it drops it (IPv4: DF)."""


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """Open `count` UDP sockets, each on a free port; pass the ports to `PathManager.batch_opened`."""

    batch: int
    count: int


@dataclass(frozen=True, slots=True)
class SendFrom:
    """Send from one socket of a batch; pass datagrams received there to `PathManager.handle_batch`."""

    batch: int
    index: int
    destination: SocketAddress
    data: bytes


@dataclass(frozen=True, slots=True)
class CloseBatch:
    """Close the remaining sockets of a batch."""

    batch: int


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Start or stop (`wanted` False) to rewrite the WireGuard port to another local port for packets of `remote`.

    `local_port` stays bound, so that no other program gets it. With `batch`, a socket of this batch is bound to it.
    """

    remote: SocketAddress
    local_port: int
    wanted: bool
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class SendFrame:
    """Send over the TLS connection to the relay, for this relay port; dropped while there is no connection."""

    port: int
    data: bytes


@dataclass(frozen=True, slots=True)
class WantTunnel:
    """Whether the TLS connection to the relay is wanted now."""

    wanted: bool


@dataclass(frozen=True, slots=True)
class StandIn:
    """Open or close the loopback address that represents a peer over TLS; its port is the peer's relay port."""

    address: SocketAddress
    wanted: bool


@dataclass(frozen=True, slots=True)
class SendControl:
    """Send over the control connection; dropped while there is no connection."""

    message: Candidates | RelayRequest


@dataclass(frozen=True, slots=True)
class SendThrough:
    """Send `count` small packets through the tunnel to this peer, which has asked whether data passes."""

    key: WireGuardKey
    count: int = 1


@dataclass(frozen=True, slots=True)
class OpenTunnel:
    """Send a packet through the tunnel to this peer, behind the endpoints that were set before."""

    key: WireGuardKey
    anew: bool = False
    """The engine first forgets session and handshake with this peer, so that the packet begins one at once; else an
    engine that waits for the answer to an initiation sends no other for five seconds (Rekey-Timeout)."""


@dataclass(frozen=True, slots=True)
class SendEcho:
    """Send an ICMP echo request through the tunnel to this peer, if its session is up.

    Pass the reply to `PathManager.echo_answered` with this transaction.
    """

    key: WireGuardKey
    transaction: bytes


@dataclass(frozen=True, slots=True)
class LivenessChanged:
    """`PathStatus.answers` of this peer has changed: viewers must be told at once."""

    key: WireGuardKey


@dataclass(frozen=True, slots=True)
class LookSoon:
    """Read the engine and call `PathManager.observe` in `after_s` seconds, in addition to the regular calls."""

    after_s: float


@dataclass(frozen=True, slots=True)
class LimitSize:
    """Limit packets to this peer to `mtu` bytes; None: as large as the tunnels carry."""

    key: WireGuardKey
    mtu: int | None
    found: bool = True
    """Whether probes have shown it. False: the limit ends with the path, and there is nothing to log."""


@dataclass(frozen=True, slots=True)
class AnotherPort:
    """Let the engine listen on another UDP port. `why`: the verdict on the present one."""

    why: str


@dataclass(frozen=True, slots=True)
class SetEndpoint:
    """Set a peer's endpoint: `engine.steer`."""

    key: WireGuardKey
    endpoint: SocketAddress


@dataclass(frozen=True, slots=True)
class Fold:
    """Set the peer's endpoint to its doorbell: what the engine sends there goes to `PathManager.ring`."""

    key: WireGuardKey


@dataclass(frozen=True, slots=True)
class PathChanged:
    """The path of a peer has changed: for status, metrics and logs."""

    key: WireGuardKey
    status: PathStatus


BatchEffect = OpenBatch | SendFrom | CloseBatch | Rewrite
Effect = (
    SendDatagram
    | SendFrame
    | SendThrough
    | OpenTunnel
    | SendEcho
    | LivenessChanged
    | LookSoon
    | LimitSize
    | WantTunnel
    | StandIn
    | SendControl
    | AnotherPort
    | SetEndpoint
    | Fold
    | PathChanged
    | BatchEffect
)
