"""What is asked of the agent at its control socket, and what it replies.

Replies leave room for an agent of another version: what it says besides is passed over, and what an older one does not
say yet has a default.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from netctl.wire.jsonline import Operations, Request

MAX_NUMBER = 1e9
"""Larger than any number of seconds or changes that is asked for."""
Seconds = Annotated[float, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Count = Annotated[int, Meta(ge=0, le=int(MAX_NUMBER))]


class Empty(Struct, frozen=True):
    """Done; there is nothing to say."""


# -- status and doctor --------------------------------------------------------------------------------------


class MediatorState(Struct, frozen=True):
    """The control connection. `state`: none, connected, or what keeps it from that."""

    state: str
    since_s: float
    error: str | None = None
    refused: str | None = None


class DocumentState(Struct, frozen=True):
    """The document that the host lives by. None: none yet."""

    digest: str | None


class DownState(Struct, frozen=True):
    """What a person has taken down."""

    everything: bool
    networks: list[str]


class NetworkState(Struct, frozen=True):
    """A network of this host."""

    mode: str
    addresses: list[str]
    down: bool
    refused: str | None = None


class PeerState(Struct, frozen=True):
    """A peer, and the path to it. Times in seconds before now; `via`: the relay's TLS address."""

    name: str
    key: str
    online: bool
    addresses: dict[str, list[str]]
    path: str
    endpoint: str | None
    rtt_ms: float | None
    since_s: float | None
    last_handshake_s: float | None
    rx_bytes: int
    tx_bytes: int
    stock: bool = False
    via: str | None = None
    tried: list[str] = field(default_factory=list)
    nat: str | None = None
    hindrance: str | None = None
    mtu: int | None = None
    """The largest packet of the tunnel that passes, in bytes, where it is less than this host's tunnels carry."""
    distrust: str | None = None
    """A direct way that answers probes and carries no data, and how that was found."""
    condition: str | None = None


class Departure(Struct, frozen=True):
    """How the host departs from its document."""

    line: str
    kind: str
    paths: list[str]


class ArmedState(Struct, frozen=True):
    """An apply that waits for `netctl confirm`."""

    digest: str
    rolls_back_in_s: float


class WatchState(Struct, frozen=True):
    """The document's file that the agent follows. `error`: why the host does not live by it."""

    file: str
    error: str | None = None


class StatusReply(Struct, frozen=True):
    """This host, its networks and its peers."""

    member: str | None
    joined: str | None
    key: str
    mediator: MediatorState
    document: DocumentState
    down: DownState
    networks: dict[str, NetworkState]
    peers: list[PeerState]
    conditions: list[str]
    drift: list[Departure]
    engine: str | None
    data_path: str | None = None
    version: str | None = None
    """Of the agent; None: of before it said so."""
    armed: ArmedState | None = None
    watch: WatchState | None = None


class Status(Request[StatusReply], frozen=True, tag="status"):
    """How the host is."""


class Check(Struct, frozen=True):
    """One thing that `doctor` looked at. `level`: ok, note or problem."""

    level: str
    check: str
    text: str
    advice: str | None = None


class NatState(Struct, frozen=True):
    """What the mediator's STUN ports see of this host in one family (RFC 4787's words)."""

    udp: str
    mapping: str


class NatStates(Struct, frozen=True):
    """Both families."""

    ipv4: NatState
    ipv6: NatState


class AllocationState(Struct, frozen=True):
    """How the NAT gives out ports: kept, sequential, block or random."""

    kind: str


class PortMappingState(Struct, frozen=True):
    """What the router keeps open for this host."""

    external: str | None = None
    protocol: str | None = None


class DoctorReply(Struct, frozen=True):
    """This host's way to the others."""

    checks: list[Check]
    nat: NatStates
    port_mapping: PortMappingState
    allocation: AllocationState | None = None


class Doctor(Request[DoctorReply], frozen=True, tag="doctor"):
    """What this host's NAT is, and what is wrong here."""


class Happening(Struct, frozen=True):
    """Something that happened on this host. `at_s`: Unix time; `kind`: path, member, apply, or host for all else."""

    at_s: float
    kind: str
    text: str


class Timeline(Request[list[Happening]], frozen=True, tag="timeline"):
    """What happened within the last day, the newest first."""


# -- plan and apply -----------------------------------------------------------------------------------------


class BindingState(Struct, frozen=True):
    """Digests of what a plan was made from."""

    document: str
    observed: str
    desired: str


class ChangeRow(Struct, frozen=True):
    """One change of a plan; the JSON has more of it."""

    kind: str
    line: str


class PeopleState(Struct, frozen=True):
    """What a plan means for people, in lines."""

    lines: list[str]


class SessionState(Struct, frozen=True):
    """The session that a plan was asked from. `drops`: why it ends, or None."""

    rides: bool
    drops: str | None


class PlanReply(Struct, frozen=True):
    """A plan (`schemas/plan.schema.json` has all of it)."""

    changes: list[ChangeRow]
    summary: str
    people: PeopleState
    session: SessionState
    binding: BindingState
    warnings: list[str]


class Plan(Request[PlanReply], frozen=True, tag="plan"):
    """What an apply of this text would change. `file`: its name in messages."""

    text: str
    file: str
    ssh_connection: str | None = None
    """SSH_CONNECTION of the session that must not drop."""
    everyone: bool = False


class ApplyReply(Struct, frozen=True):
    """How an apply ended. `error` None: the host is as the document says."""

    changed: int
    rolled_back: bool
    error: str | None
    warnings: list[str] = field(default_factory=list)
    waiting: str | None = None
    """Why the mediator does not answer: the last view stays in force."""
    armed: ArmedState | None = None


class Apply(Request[ApplyReply], frozen=True, tag="apply"):
    """Make this text true. `binding`: only if that plan still holds."""

    text: str
    file: str
    binding: BindingState | None = None
    confirm_s: Seconds | None = None
    """Arm the apply for so long; None: only when the session rides on it."""
    ssh_connection: str | None = None
    force: bool = False
    unattended: bool = False


class OutcomeReply(Struct, frozen=True):
    """How a change of the host ended."""

    changed: int
    error: str | None
    rolled_back: bool = False


class Up(Request[OutcomeReply], frozen=True, tag="up"):
    """Bring a network up; None: all."""

    network: str | None = None


class Down(Request[OutcomeReply], frozen=True, tag="down"):
    """Take a network down; None: all."""

    network: str | None = None


class PruneReply(Struct, frozen=True):
    """What is in no document, and how many of it are gone."""

    changes: list[ChangeRow]
    summary: str
    changed: int
    error: str | None


class Prune(Request[PruneReply], frozen=True, tag="prune"):
    """Remove what is ours and in no document, unless it is more. `at_most` None: only say what would go."""

    at_most: Count | None = None


class ConfirmReply(Struct, frozen=True):
    """The document that stays."""

    digest: str


class Confirm(Request[ConfirmReply], frozen=True, tag="confirm"):
    """Keep what an armed apply made."""


class Rollback(Request[OutcomeReply], frozen=True, tag="rollback"):
    """Take an armed apply back. `nonce`: that one and no other."""

    nonce: str | None = None


# -- membership, leases, the rest ---------------------------------------------------------------------------


class Adopt(Request[Empty], frozen=True, tag="adopt"):
    """Read again what `netctl join` has written."""


class Leave(Request[OutcomeReply], frozen=True, tag="leave"):
    """Leave what this host joined by invite."""


class LeaseRow(Struct, frozen=True):
    """A pinned lease, and the addresses that the mediator says against it."""

    network: str
    key: str
    member: str | None = None
    address: str | None = None
    refused: str | None = None


class Leases(Request[list[LeaseRow]], frozen=True, tag="leases"):
    """The leases that this host holds its mediator to."""


class ForgottenReply(Struct, frozen=True):
    """How many leases were forgotten."""

    forgotten: int


class ForgetLeases(Request[ForgottenReply], frozen=True, tag="leases.forget"):
    """Forget the leases of a member, by name or key; None: of all."""

    member: str | None = None


class Drill(Request[Empty], frozen=True, tag="drill"):
    """Do without the mediator for so long; 0 ends it."""

    seconds: Seconds


class Stop(Request[Empty], frozen=True, tag="stop"):
    """End the agent; the tunnels stay."""


OPERATIONS = Operations(
    "agent",
    *(Status, Doctor, Timeline, Plan, Apply, Prune, Confirm, Rollback, Up, Down),
    *(Adopt, Leave, Leases, ForgetLeases, Drill, Stop),
)
