"""The only place where a document becomes the desired state of a host.

`evaluate` reads nothing and changes nothing: its inputs are arguments, its findings are the result. A plan throws the
result away; an apply carries one result from the check of its plan to the end.
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
    """The result of an evaluation: the desired state of the host, and what could not be had."""

    document: Document
    member: str
    desired: HostState
    conditions: tuple[Condition, ...] = ()
    """Where the host cannot be as the document says, and why."""
    view: View | None = None
    """The mediator's view, less what this host does not believe."""
    pins: Pins | None = None
    """The lease pins that hold once this evaluation is applied; None: the pins stay as they are."""
    leases_refused: Mapping[tuple[str, WireGuardKey], Address] | None = None
    """Addresses of the mediator that contradict the pins, by network id and key."""
    foreign: Foreign = field(default_factory=Foreign)
    """Foreign links, routes and addresses on the host at the time of the evaluation."""

    @property
    def refusals(self) -> tuple[str, ...]:
        """Which parts of the document are not brought up on this host, and why."""
        said = (condition for condition in self.conditions if "." in condition.peer)
        return tuple(f"{condition.peer}: {condition.message}" for condition in said)


def member_name(document: Document, key: WireGuardKey) -> str:
    """The name of the member with this key in a document. Raises LocalError when there is none."""
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
    """The desired state of the host with this key. Raises LocalError when it is no member of the document.

    `live`: peers with a session. `resolved`: fixed endpoints by ``str(Endpoint)``. `told`: the document whose fixed
    endpoints the tunnels got last; a changed fixed endpoint moves a live tunnel too. `waits`: another host with this
    key is connected, so this one calls no peer and no peer's packets are moved to it. `port_turn`: which port is used
    where the document names none (`netctl.node.ownport`).
    """
    name = member_name(document, key)
    up = down.of(document)
    fitting, refused = clear_of(up, name, foreign)
    if joined is not None and not joined.routes:
        fitting, unasked = within_consent(fitting, name, foreign)
        # Where two conditions concern one place, the stricter one holds.
        places = {condition.peer for condition in unasked}
        refused = (*(one for one in refused if one.peer not in places), *unasked)
    # A host that joined by invite has no document of its own to check its mediator against: it trusts it.
    judged = judge_leases(document, view, {} if joined is not None else pins)
    resolution = resolve(fitting, name, judged.view, live=live, resolved=resolved)
    conditions = (*refused, *judged.conditions, *resolution.conditions)
    if document.networks_of(name) and not up.networks_of(name):
        conditions = ()  # the host belongs to networks, and the user took all of them down
    state = with_port(resolution.state, document, name, port_turn)
    if waits and state.wireguard is not None:
        state = replace(state, wireguard=replace(state.wireguard, peers={}))
    if joined is None:  # a mediator's document may not open the firewall: this host's owner did not write it
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
