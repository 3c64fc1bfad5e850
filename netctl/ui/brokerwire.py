"""The messages between the page's server and its broker, which keeps the rights that the server gives up.

One connection carries all questions, each with a number. An answer is one line, after any number of lines of progress.
The broker of a page for viewers knows no operation that changes anything.
"""

from __future__ import annotations

from msgspec import Raw, Struct

from netctl.wire import agentrequests as a
from netctl.wire import operatorrequests as m
from netctl.wire.jsonline import Operations, Request

MAX_LINE = 20 * 1024 * 1024
"""Bytes, as at the agent's socket: a document of 20,000 members is about 4 MB; JSON may need twice that."""


class Question(Struct, frozen=True):
    """A request to `to`: ``agent``, ``mediator`` or ``broker``. `by`: the name of who asks, for the mediator's
    audit log;
    empty: somebody with a link."""

    id: int
    to: str
    request: Raw
    by: str = ""


class Told(Struct, frozen=True):
    """A line of an answer (`netctl.wire.jsonline.Line`). `final`: whether it is the last line of this answer."""

    id: int
    final: bool
    line: Raw


class Redeemed(Struct, frozen=True):
    """The link was good. `operator`: whether this browser may change things."""

    operator: bool


class Redeem(Request[Redeemed], frozen=True, tag="redeem"):
    """Use a link's token up. Fails for a token that is used up, too old, or was never made."""

    token: str


class GitSource(Struct, frozen=True):
    """What `netctl sync` says of this host's document: where the document comes from, and what became of the
    newest commit."""

    repository: str
    branch: str
    path: str
    in_force: str | None
    """The commit whose document is in force on this host; None: there is none yet."""
    looked_at_s: float
    """Unix time of the last look at the repository."""
    problem: str = ""
    commit: str = ""
    subject: str = ""
    author: str = ""
    signer: str = ""
    outcome: str = ""
    why: str = ""


class DocumentText(Struct, frozen=True):
    """The document: the text of the file that people edit, and the text in force on this host (None: there is
    none)."""

    file: str
    text: str | None
    accepted: str | None
    trouble: str | None = None
    """Why `text` is None: the file is not there or cannot be read."""
    git: GitSource | None = None
    """Set if `netctl sync` brings the document. The page does not edit it then."""


class ReadDocument(Request[DocumentText], frozen=True, tag="document.read"):
    """Ask for the document of this host."""


class Mediates(Struct, frozen=True):
    """`here`: whether there is a mediator that operators of the page may use."""

    here: bool


class IsMediator(Request[Mediates], frozen=True, tag="mediator.here"):
    """Ask whether a mediator runs on this machine that operators of the page may use."""


class ApplyDocument(Request[a.ApplyReply], frozen=True, tag="document.apply"):
    """Make the agent apply this text for `confirm_s`: the host goes back unless somebody confirms. No file is
    changed.

    `base`: the digest of the file when the edit began; the request is refused if the file has changed since. `binding`:
    of the plan that the person has seen. `force`: also if this host went back from this very text before.
    """

    text: str
    base: str
    binding: a.BindingState
    confirm_s: a.Seconds
    force: bool = False


class Kept(Struct, frozen=True):
    """The document on trial stays. `file`: the file that was written; None: none was, for the reason in
    `left`."""

    file: str | None
    left: str = ""


class ConfirmDocument(Request[Kept], frozen=True, tag="document.confirm"):
    """Keep the document on trial. If this page applied it, and nobody has saved the file since, it is written
    there."""


class PathCheck(Struct, frozen=True):
    """The result of echo requests to a peer (`netctl.ui.pathcheck.Checked`). `address`: where they were sent."""

    address: str
    sent: int
    received: int
    rtt_ms: float | None
    tunnel_mtu: int
    mtu: int | None


class CheckPath(Request[PathCheck], frozen=True, tag="path.check"):
    """Send echo requests to the peer with this name, through the tunnel. Fails if that is asked for too often."""

    member: str


class CarriedPair(Struct, frozen=True):
    """Two members whose packets the relay carries, or is ready to carry. `passed`: bytes so far, both directions
    together."""

    members: tuple[str, str]
    passed: int


class Carried(Struct, frozen=True):
    """The pairs that the relay carries, those with most traffic first. `in_all`: how many there are; not all may
    be listed."""

    pairs: list[CarriedPair]
    in_all: int


class ListCarried(Request[Carried | None], frozen=True, tag="relay.carried"):
    """Ask for the pairs of the relay on the mediator's machine. The reply is None if no relay answers."""


class FirewallDrop(Struct, frozen=True):
    """A rule of this host's firewall that drops the flow, and what to do about it."""

    text: str
    advice: str


class FirewallVerdict(Struct, frozen=True):
    """What the firewall of `host` does to a flow. `unknown`: why that is not known. If `unknown` and `drops` are
    empty, the
    firewall lets the flow pass."""

    host: str
    drops: list[FirewallDrop]
    unknown: str = ""


class AskFirewall(Request[FirewallVerdict], frozen=True, tag="firewall.ask"):
    """Ask what the receiver's firewall does to a flow between two members, as `netctl why` does. `port` None:
    any."""

    src: str
    dst: str
    proto: str | None = None
    port: int | None = None


AGENT = (a.Status, a.Watch, a.Doctor, a.Timeline)
"""Requests to the agent that only read."""
CHANGING = (a.Plan, a.Rollback)
"""Requests to the agent for operators alone: what an edit would change, and going back from a trial."""
BROKER = (Redeem, ReadDocument, IsMediator, AskFirewall)
"""Requests to the broker itself that only read, and the use of a link."""
ACTING = (ApplyDocument, ConfirmDocument, CheckPath, ListCarried)
"""Requests to the broker itself for operators alone."""
MEDIATOR = (m.ServerStatusRequest, m.ListBans, m.ListAudit, m.LiftBan)
"""Requests about the mediator's state, for operators alone."""
INVITES = (m.ListInvites, m.CreateInvite, m.RevokeInvite)
"""Requests about invites, for operators alone."""
MEMBERS = (m.ListMembers, m.Approve, m.Reject, m.Revoke, m.Restore)
"""Requests about members, for operators alone."""


def agent_operations(*, operators: bool) -> Operations:
    """What the server may ask of the agent. It can apply only through `ApplyDocument`."""
    return Operations("page's broker", *((*AGENT, *CHANGING) if operators else AGENT))


def broker_operations(*, operators: bool) -> Operations:
    """What the broker itself answers."""
    return Operations("page's broker", *((*BROKER, *ACTING) if operators else BROKER))


def mediator_operations(*, operators: bool) -> Operations:
    """What the server may ask of the mediator: nothing on a page for viewers, because its lists are for
    operators."""
    return Operations("page's broker", *((*MEDIATOR, *INVITES, *MEMBERS) if operators else ()))
