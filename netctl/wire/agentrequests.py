"""Requests to the agent at its control socket, and the agent's replies.

Replies leave room for an agent of another version: fields that this version does not know are ignored, and fields that
an older agent does not send have a default.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from netctl.wire.jsonline import Operations, Request

MAX_NUMBER = 1e9
"""Larger than any number of seconds or changes that a request needs."""
Seconds = Annotated[float, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Count = Annotated[int, Meta(ge=0, le=int(MAX_NUMBER))]


class Empty(Struct, frozen=True):
    """The operation succeeded and has no result."""


# -- status and doctor --------------------------------------------------------------------------------------


class MediatorState(Struct, frozen=True):
    """The control connection. `state`: none, connected, or what prevents the connection."""

    state: str
    since_s: float
    error: str | None = None
    refused: str | None = None


class DocumentState(Struct, frozen=True):
    """The accepted document. `digest` None: there is none yet."""

    digest: str | None


class DownState(Struct, frozen=True):
    """The networks that `netctl down` has taken down."""

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
    answers: bool | None = None
    """Whether it answers just now; None: nobody has looked for long enough, or it cannot be known."""
    presence_known: bool = True
    """False: the mediator has not said whether the peer is online, and `online` says nothing."""


class Departure(Struct, frozen=True):
    """A difference between the host and its document."""

    line: str
    kind: str
    paths: list[str]


class ArmedState(Struct, frozen=True):
    """An apply that waits for `netctl confirm`. `digest`: of its document."""

    digest: str
    rolls_back_in_s: float


class WatchState(Struct, frozen=True):
    """The document's file that the agent follows. `error`: why the agent has not applied it."""

    file: str
    error: str | None = None


class OwnRelayState(Struct, frozen=True):
    """The relay that this member runs for its networks. `error`: why it does not run now."""

    state: str
    error: str | None = None
    bindings: int = 0
    forwarded_bytes: int = 0
    unheld: list[tuple[int, int]] = []
    """Spans of its relay ports that other programs hold."""
    blocked: list[str] = []
    """What the host's own firewall drops of the packets to it."""


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
    """The agent's version; None: the agent is older than this field."""
    armed: ArmedState | None = None
    watch: WatchState | None = None
    own_relay: OwnRelayState | None = None
    """None: this member does not relay."""


class Status(Request[StatusReply], frozen=True, tag="status"):
    """Ask for the state of the host, its networks and its peers."""

    look: bool = True
    """Whether peers are looked at: in a large view the mediator is then asked for the presence of all, and tells of
    each change for a minute. False: only those are known whose tunnels are open, unless somebody else looks.
    """


class WatchReply(Struct, frozen=True):
    """`changes`: how often peers, paths or presence have changed in this agent's life."""

    changes: int


class Watch(Request[WatchReply], frozen=True, tag="watch"):
    """Somebody looks at this host, and renews this before the answer is some seconds old: meanwhile peers are asked
    whether they answer (`PeerState.answers`).

    The reply comes once there were other changes than `seen`, at the latest after `wait_s` seconds.
    """

    seen: int = -1
    wait_s: Seconds = 0.0


class Check(Struct, frozen=True):
    """One check of `doctor`, and its result. `level`: ok, note or problem."""

    level: str
    check: str
    text: str
    advice: str | None = None


class NatState(Struct, frozen=True):
    """This host's NAT in one address family, as the mediator's STUN ports see it (terms of RFC 4787)."""

    udp: str
    mapping: str


class NatStates(Struct, frozen=True):
    """This host's NAT in both address families."""

    ipv4: NatState
    ipv6: NatState


class AllocationState(Struct, frozen=True):
    """How the NAT allocates ports. `kind`: kept, sequential, block or random."""

    kind: str


class PortMappingState(Struct, frozen=True):
    """The port that the router keeps open for this host."""

    external: str | None = None
    protocol: str | None = None


class DoctorReply(Struct, frozen=True):
    """The state of this host's connectivity."""

    checks: list[Check]
    nat: NatStates
    port_mapping: PortMappingState
    allocation: AllocationState | None = None


class Doctor(Request[DoctorReply], frozen=True, tag="doctor"):
    """Ask for the kind of this host's NAT and for the problems found on this host."""


class Happening(Struct, frozen=True):
    """An event on this host. `at_s`: Unix time; `kind`: path, member, apply, or host for all else."""

    at_s: float
    kind: str
    text: str


class Timeline(Request[list[Happening]], frozen=True, tag="timeline"):
    """Ask for the events of the last day, the newest first."""


# -- plan and apply -----------------------------------------------------------------------------------------


class BindingState(Struct, frozen=True):
    """Digests of the inputs that a plan was computed from."""

    document: str
    observed: str
    desired: str


class ChangeRow(Struct, frozen=True):
    """One change of a plan; the JSON has more fields."""

    kind: str
    line: str


class PeopleState(Struct, frozen=True):
    """The consequences of a plan for people, one a line."""

    lines: list[str]


class SessionState(Struct, frozen=True):
    """The SSH session that asked for a plan. `rides`: it runs over our tunnel; `drops`: why it would end, or None."""

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
    """Ask what an apply of this text would change. `file`: the text's file name in messages."""

    text: str
    file: str
    ssh_connection: str | None = None
    """The environment variable SSH_CONNECTION of the session that must not drop."""
    everyone: bool = False


class ApplyReply(Struct, frozen=True):
    """The result of an apply. `error` None: the host is as the document says."""

    changed: int
    rolled_back: bool
    error: str | None
    warnings: list[str] = field(default_factory=list)
    waiting: str | None = None
    """Why the mediator does not answer; the last view stays in force."""
    armed: ArmedState | None = None


class Apply(Request[ApplyReply], frozen=True, tag="apply"):
    """Apply this text. `binding`: apply only if the plan with these digests still holds."""

    text: str
    file: str
    binding: BindingState | None = None
    confirm_s: Seconds | None = None
    """Arm the apply for so many seconds; None: arm it only if the session rides on our tunnel or it is unattended."""
    ssh_connection: str | None = None
    force: bool = False
    unattended: bool = False


class OutcomeReply(Struct, frozen=True):
    """The result of a change of the host."""

    changed: int
    error: str | None
    rolled_back: bool = False


class Up(Request[OutcomeReply], frozen=True, tag="up"):
    """Bring a network up; `network` None: all."""

    network: str | None = None


class Down(Request[OutcomeReply], frozen=True, tag="down"):
    """Take a network down; `network` None: all."""

    network: str | None = None


class PruneReply(Struct, frozen=True):
    """Our objects that are in no document, and how many of them were removed."""

    changes: list[ChangeRow]
    summary: str
    changed: int
    error: str | None


class Prune(Request[PruneReply], frozen=True, tag="prune"):
    """Remove our objects that are in no document, unless more than `at_most`. `at_most` None: only list them."""

    at_most: Count | None = None


class ConfirmReply(Struct, frozen=True):
    """The document that stays."""

    digest: str


class Confirm(Request[ConfirmReply], frozen=True, tag="confirm"):
    """Confirm the armed apply: its changes stay."""


class Rollback(Request[OutcomeReply], frozen=True, tag="rollback"):
    """Roll the armed apply back. `nonce`: only the apply with this nonce."""

    nonce: str | None = None


# -- membership, leases, the rest ---------------------------------------------------------------------------


class Adopt(Request[Empty], frozen=True, tag="adopt"):
    """Read the files that `netctl join` has written again."""


class Leave(Request[OutcomeReply], frozen=True, tag="leave"):
    """Leave the network that this host joined by invite."""


class LeaseRow(Struct, frozen=True):
    """A pinned lease. `refused`: the mediator's different addresses, which this host does not accept."""

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
    """Do without the mediator for so many seconds; 0 ends the drill."""

    seconds: Seconds


class Stop(Request[Empty], frozen=True, tag="stop"):
    """End the agent; the tunnels stay."""


OPERATIONS = Operations(
    "agent",
    *(Status, Watch, Doctor, Timeline, Plan, Apply, Prune, Confirm, Rollback, Up, Down),
    *(Adopt, Leave, Leases, ForgetLeases, Drill, Stop),
)
