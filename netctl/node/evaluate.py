"""The only place where a document becomes the desired state of a host.

`evaluate` reads nothing and changes nothing: what it needs comes in, what it found goes out. Whoever plans throws
the result away, whoever applies carries the same result from the check of a plan to the end of the apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from netctl.config import Condition, Pins, clear_of, judge_leases, resolve
from netctl.config.resolve.consent import within_consent
from netctl.config.resolve.endpointchanges import called_elsewhere
from netctl.model.addresses import Address, SocketAddress
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.model.foreign import Foreign
from netctl.model.hoststate import HostState, insisting
from netctl.model.keys import WireGuardKey
from netctl.model.view import View
from netctl.node.choices import NOTHING_DOWN, Down, Joined
from netctl.node.firewall.obstacles import openings
from netctl.node.ownport import with_port


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a document, a view and the host around them come to."""

    document: Document
    member: str
    desired: HostState
    conditions: tuple[Condition, ...] = ()
    """What is not as the document says, and why."""
    view: View | None = None
    """The mediator's view as far as it is believed."""
    pins: Pins | None = None
    """The leases that this host holds its mediator to once it lives by this; None: as before."""
    leases_refused: Mapping[tuple[str, WireGuardKey], Address] | None = None
    """What the mediator says against the pins, by network id and key."""
    foreign: Foreign = field(default_factory=Foreign)
    """What of others was on the host when this was made."""

    @property
    def refusals(self) -> tuple[str, ...]:
        """What of the document is not brought up on this host, and why."""
        said = (condition for condition in self.conditions if "." in condition.peer)
        return tuple(f"{condition.peer}: {condition.message}" for condition in said)


def member_name(document: Document, key: WireGuardKey) -> str:
    """Which member of a document has this key. Raises LocalError."""
    member = document.member_by_key(key)
    if member is None:
        raise LocalError(
            f"no member of the document has this host's key {key}: "
            "add the line that `netctl keys` prints under `members:`"
        )
    return member.name


def evaluate(
    document: Document,
    view: View | None,
    pins: Pins,
    foreign: Foreign,
    live: frozenset[WireGuardKey],
    resolved: Mapping[str, SocketAddress],
    *,
    key: WireGuardKey,
    down: Down = NOTHING_DOWN,
    joined: Joined | None = None,
    told: Document | None = None,
    waits: bool = False,
    port_turn: int = 0,
) -> Evaluation:
    """What the host with this key should have. Raises LocalError when it is no member of the document.

    `live`: peers with a session. `resolved`: fixed endpoints by ``str(Endpoint)``. `told`: the document whose
    fixed endpoints the tunnels were told last; one that is another now moves a live tunnel too. `waits`: another host
    with this key is connected, so this one calls nobody, and nobody's packets are moved to it. `port_turn`: which port
    is taken where the document names none (`netctl.node.ownport`).
    """
    name = member_name(document, key)
    up = down.of(document)
    fitting, refused = clear_of(up, name, foreign)
    if joined is not None and not joined.routes:
        fitting, unasked = within_consent(fitting, name, foreign)
        # Of two words about one place the stricter holds.
        places = {condition.peer for condition in unasked}
        refused = (*(one for one in refused if one.peer not in places), *unasked)
    # A host that joined has no document to hold against its mediator, and trusts it.
    judged = judge_leases(document, view, {} if joined is not None else pins)
    resolution = resolve(fitting, name, judged.view, live=live, resolved=resolved)
    conditions = (*refused, *judged.conditions, *resolution.conditions)
    if document.networks_of(name) and not up.networks_of(name):
        conditions = ()  # it belongs to networks: they are down, because somebody wanted that
    state = with_port(resolution.state, document, name, port_turn)
    if waits and state.wireguard is not None:
        state = replace(state, wireguard=replace(state.wireguard, peers={}))
    if joined is None:  # a mediator's document is no word of this host's owner about its firewall
        state = replace(state, openings=openings(state, document, name, foreign))
    return Evaluation(
        document=document,
        member=name,
        desired=insisting(state, called_elsewhere(told, document)),
        conditions=conditions,
        view=judged.view,
        pins=judged.pins if joined is None else None,
        leases_refused=judged.refused,
        foreign=foreign,
    )
