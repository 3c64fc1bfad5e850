"""What the path manager asks its shell to do, and what it tells about a pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from netctl.model.addresses import SocketAddress
from netctl.model.keys import WireGuardKey
from netctl.wire.control import Candidates, RelayRequest

PathKind = Literal["lan", "direct", "relay-udp", "relay-tls", "none"]


@dataclass(frozen=True, slots=True)
class PathStatus:
    """How one peer's packets travel just now."""

    kind: PathKind = "none"
    endpoint: SocketAddress | None = None
    rtt_ms: float | None = None
    """Round trip between the two members; None on a relay, where only the engine sees both halves."""
    since_s: float = 0.0
    """`now` (monotonic seconds) when this path was chosen."""
    tried: tuple[str, ...] = ()
    """One line per candidate that does not carry the path: address, kind, and why not."""
    peer_nat: str = ""
    """The peer's IPv4 NAT in words, as it said itself; empty: it has not."""
    blocker: str | None = None
    """Why there is no direct path, as far as the two NATs explain it."""
    mtu: int | None = None
    """The largest packet of the tunnel that passes on the way, where it is less than this host's tunnels carry."""
    distrust: str | None = None
    """A direct way that answers probes and carries no data, in words."""
    answers: bool | None = None
    """Whether the peer answers just now. None: nobody looks, so it is not asked, or it cannot be known."""


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """Send from the WireGuard port; `ttl` None is the system's default. Failures to send are no errors."""

    destination: SocketAddress
    data: bytes
    ttl: int | None = None
    whole: bool = False
    """In one piece or not at all: a hop that would cut it drops it (IPv4: DF)."""


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """Open so many IPv4 UDP sockets, each on a free port; tell `PathManager.batch_opened` which."""

    batch: int
    count: int


@dataclass(frozen=True, slots=True)
class SendFrom:
    """Send from one socket of a batch; what arrives there goes to `PathManager.handle_batch`."""

    batch: int
    index: int
    destination: SocketAddress
    data: bytes


@dataclass(frozen=True, slots=True)
class CloseBatch:
    """Close what is left of a batch."""

    batch: int


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Let the WireGuard port's traffic with `remote` pass by another local port, or no longer.

    The port stays bound, so that no other program gets it. With `batch` it is that of this batch's socket.
    """

    remote: SocketAddress
    local_port: int
    wanted: bool
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class SendFrame:
    """Send over the TLS connection to the relay, for this relay port; dropped when it is down."""

    port: int
    data: bytes


@dataclass(frozen=True, slots=True)
class WantTunnel:
    """Whether the TLS connection to the relay is wanted now."""

    wanted: bool


@dataclass(frozen=True, slots=True)
class StandIn:
    """Open or close the loopback address that stands in for a peer over TLS; its port is the relay's for the peer."""

    address: SocketAddress
    wanted: bool


@dataclass(frozen=True, slots=True)
class SendControl:
    """Send over the control connection; dropped when it is down."""

    message: Candidates | RelayRequest


@dataclass(frozen=True, slots=True)
class SendThrough:
    """Send a small packet through the tunnel to this peer: it has asked whether data passes."""

    key: WireGuardKey
    count: int = 1


@dataclass(frozen=True, slots=True)
class SendEcho:
    """Send an ICMP echo request through the tunnel to this peer, if its session is up.

    Its reply goes to `PathManager.echo_answered` with this transaction.
    """

    key: WireGuardKey
    transaction: bytes


@dataclass(frozen=True, slots=True)
class LivenessChanged:
    """Whether this peer answers has changed (`PathStatus.answers`): whoever looks wants to see it now."""

    key: WireGuardKey


@dataclass(frozen=True, slots=True)
class LookSoon:
    """Tell `PathManager.observe` what the engine sees in so many seconds, not only with the next look."""

    after_s: float


@dataclass(frozen=True, slots=True)
class LimitSize:
    """Let packets to this peer be no larger than so many bytes; None: as large as the tunnels carry."""

    key: WireGuardKey
    mtu: int | None


@dataclass(frozen=True, slots=True)
class AnotherPort:
    """The engine should listen on another UDP port. `why`: in words."""

    why: str


@dataclass(frozen=True, slots=True)
class SetEndpoint:
    """`engine.steer(key, endpoint)`."""

    key: WireGuardKey
    endpoint: SocketAddress


@dataclass(frozen=True, slots=True)
class PathChanged:
    """For status, metrics and logs."""

    key: WireGuardKey
    status: PathStatus


BatchEffect = OpenBatch | SendFrom | CloseBatch | Rewrite
Effect = (
    SendDatagram
    | SendFrame
    | SendThrough
    | SendEcho
    | LivenessChanged
    | LookSoon
    | LimitSize
    | WantTunnel
    | StandIn
    | SendControl
    | AnotherPort
    | SetEndpoint
    | PathChanged
    | BatchEffect
)
