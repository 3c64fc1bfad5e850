"""What the page asks of its broker, which keeps the rights that the page's server gives up.

One connection carries all questions, each with a number; a line an answer, and lines of progress before it. Which
operations a broker knows depends on what it may do: one for viewers has none that changes anything.
"""

from __future__ import annotations

from msgspec import Raw, Struct

from netctl.wire import agentrequests as a
from netctl.wire import operatorrequests as m
from netctl.wire.jsonline import Operations, Request

MAX_LINE = 20 * 1024 * 1024
"""As at the agent's socket: a document of 20,000 members is about 4 MB; JSON may need twice that."""


class Question(Struct, frozen=True):
    """A request for `to`: agent, mediator or broker. `by`: who asks, for the audit log, where the server knows it."""

    id: int
    to: str
    request: Raw
    by: str = ""


class Told(Struct, frozen=True):
    """A line of an answer (`netctl.wire.jsonline.Line`). `final`: the last one of this question."""

    id: int
    final: bool
    line: Raw


class Redeemed(Struct, frozen=True):
    """A link was good. `operator`: who has it may change what is there."""

    operator: bool


class Redeem(Request[Redeemed], frozen=True, tag="redeem"):
    """Use a link's token up. Fails for a token that is used up, too old, or was never made."""

    token: str


class GitSource(Struct, frozen=True):
    """What `netctl sync` makes of this host's document: where it comes from, and the newest commit's fate."""

    repository: str
    branch: str
    path: str
    in_force: str | None
    """The commit that the host lives by."""
    looked_at_s: float
    """Unix time."""
    problem: str = ""
    commit: str = ""
    subject: str = ""
    author: str = ""
    signer: str = ""
    outcome: str = ""
    why: str = ""


class DocumentText(Struct, frozen=True):
    """The document: the file that people edit, and the one that this host lives by (None: none)."""

    file: str
    text: str | None
    accepted: str | None
    trouble: str | None = None
    """Why `text` is None."""
    git: GitSource | None = None
    """There while `netctl sync` brings the document: nobody else edits it then."""


class ReadDocument(Request[DocumentText], frozen=True, tag="document.read"):
    """The document of this host."""


class Mediates(Struct, frozen=True):
    """Whether there is one."""

    here: bool


class IsMediator(Request[Mediates], frozen=True, tag="mediator.here"):
    """Whether a mediator is on this machine that operators of the page may use."""


class ApplyDocument(Request[a.ApplyReply], frozen=True, tag="document.apply"):
    """Have the agent apply this text, armed: the host goes back unless somebody confirms. No file is changed.

    `base`: the digest of the file that was edited; refused where the file is another by now. `binding`: of the plan.
    """

    text: str
    base: str
    binding: a.BindingState
    confirm_s: a.Seconds
    force: bool = False


class Kept(Struct, frozen=True):
    """What was armed stays. `file`: what was written, or None; `left`: why the file was left alone, or empty."""

    file: str | None
    left: str = ""


class ConfirmDocument(Request[Kept], frozen=True, tag="document.confirm"):
    """Keep what is armed. What this page has applied goes into the file, where nobody has saved it meanwhile."""


class PathCheck(Struct, frozen=True):
    """What came back of echo requests to a peer (`netctl.ui.pathcheck.Checked`). `address`: the one that was asked."""

    address: str
    sent: int
    received: int
    rtt_ms: float | None
    tunnel_mtu: int
    mtu: int | None


class CheckPath(Request[PathCheck], frozen=True, tag="path.check"):
    """Ask a peer of this host, by name, through the tunnel. Fails where that is asked for too often."""

    member: str


class CarriedPair(Struct, frozen=True):
    """Two members whose packets the relay carries, or is ready to, and the bytes that have passed both ways."""

    members: tuple[str, str]
    passed: int


class Carried(Struct, frozen=True):
    """Those with most traffic first; `in_all`: how many there are."""

    pairs: list[CarriedPair]
    in_all: int


class ListCarried(Request[Carried | None], frozen=True, tag="relay.carried"):
    """The pairs of the relay on the mediator's machine. None: no relay answers."""


class FirewallDrop(Struct, frozen=True):
    """A rule of this host's firewall that drops the flow, and what to do about it."""

    text: str
    advice: str


class FirewallVerdict(Struct, frozen=True):
    """What the firewall of `host` does to a flow. `unknown`: why that is not known; else it passes without `drops`."""

    host: str
    drops: list[FirewallDrop]
    unknown: str = ""


class AskFirewall(Request[FirewallVerdict], frozen=True, tag="firewall.ask"):
    """What the firewall at the end of a flow between two members does to it: as `netctl why` tells it."""

    src: str
    dst: str
    proto: str | None = None
    port: int | None = None


AGENT = (a.Status, a.Watch, a.Doctor, a.Timeline)
CHANGING = (a.Plan, a.Rollback)
BROKER = (Redeem, ReadDocument, IsMediator, AskFirewall)
ACTING = (ApplyDocument, ConfirmDocument, CheckPath, ListCarried)
MEDIATOR = (m.ServerStatusRequest, m.ListBans, m.ListAudit, m.LiftBan)
INVITES = (m.ListInvites, m.CreateInvite, m.RevokeInvite)
MEMBERS = (m.ListMembers, m.Approve, m.Reject, m.Revoke, m.Restore)


def agent_operations(*, operators: bool) -> Operations:
    """What may be asked of the agent. An apply goes through `ApplyDocument` alone."""
    return Operations("page's broker", *((*AGENT, *CHANGING) if operators else AGENT))


def broker_operations(*, operators: bool) -> Operations:
    """What the broker does itself."""
    return Operations("page's broker", *((*BROKER, *ACTING) if operators else BROKER))


def mediator_operations(*, operators: bool) -> Operations:
    """What may be asked of the mediator: nothing where nobody may change anything, for the lists are an operator's."""
    return Operations("page's broker", *((*MEDIATOR, *INVITES, *MEMBERS) if operators else ()))
