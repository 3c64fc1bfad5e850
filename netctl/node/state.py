"""The state of a node: one frozen value, replaced whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from netctl.config import Condition, Loaded, Pins
from netctl.model.addresses import Address
from netctl.model.document import Document
from netctl.model.foreign import Foreign
from netctl.model.hoststate import HostState, insisting
from netctl.model.keys import WireGuardKey
from netctl.model.view import View, ViewMember
from netctl.node.choices import NOTHING_DOWN, Down, Joined
from netctl.node.evaluate import Evaluation, evaluate
from netctl.node.events import HostRead


@dataclass(frozen=True, slots=True)
class NodeState:
    """The state of one host. A running apply has an `Evaluation` of its own, which enters this state only when it
    succeeds.
    """

    loaded: Loaded | None = None
    """The accepted document."""
    joined: Joined | None = None
    """The invite that the document comes from, by the mediator's views; None: from this host, or there is none yet.
    """
    view: View | None = None
    """The newest view of the mediator."""
    pins: Pins = field(default_factory=dict)
    """The lease pins that this host holds its mediator to."""
    down: Down = NOTHING_DOWN
    conditions: tuple[Condition, ...] = ()
    """Where the host is not as the accepted document says, and why."""
    believed: View | None = None
    """The part of the view that this host believes."""
    leases_refused: Mapping[tuple[str, WireGuardKey], Address] = field(default_factory=dict)
    """Addresses of the mediator that contradict the pins, by network id and key."""
    foreign: Foreign = field(default_factory=Foreign)
    """Foreign links, routes and addresses on the host when the accepted document was last evaluated."""
    desired: HostState = field(default_factory=HostState)
    """The state that the host was last brought to."""
    settled: bool = False
    """Whether this life of the agent has worked `desired` out itself: before that no difference counts as drift."""
    port_turn: int = 0
    """Which port is used in place of the usual one (`netctl.node.ownport`); 0: the usual one."""
    waits: bool = False
    """Another host has this host's key and is connected: this host has no peers until that one is gone."""
    told: Document | None = None
    """The document whose fixed endpoints the tunnels got last."""

    @property
    def document(self) -> Document | None:
        """The accepted document."""
        return self.loaded.document if self.loaded is not None else None

    @property
    def knows(self) -> bool:
        """Whether the desired state is known: a document with mediators needs a view, too."""
        return self.loaded is not None and (not self.loaded.document.mediators or self.view is not None)

    def evaluate(
        self,
        document: Document,
        seen: HostRead,
        *,
        key: WireGuardKey,
        view: View | None,
        joined: Joined | None = None,
        told: Document | None = None,
    ) -> Evaluation:
        """Evaluate a document for this host as it was read. Raises LocalError when the host is no member of it."""
        return evaluate(
            document,
            view,
            self.pins,
            seen.foreign,
            seen.live,
            seen.resolved,
            key=key,
            down=self.down,
            joined=joined,
            told=told,
            waits=self.waits,
            port_turn=self.port_turn,
        )

    def evaluated(self, evaluation: Evaluation) -> NodeState:
        """The state after a new evaluation of the accepted document, whether or not the host can be brought to it."""
        return replace(
            self,
            conditions=evaluation.conditions,
            believed=evaluation.view,
            leases_refused=evaluation.leases_refused or {},
            foreign=evaluation.foreign,
        )

    def brought(self, desired: HostState, told: Document | None) -> NodeState:
        """The state after the host was brought to this desired state.

        An equal state stays the same object: whoever has looked at it keeps no second one of thousands of peers.
        """
        brought = insisting(desired, frozenset())
        if brought == self.desired:
            brought = self.desired
        return replace(self, desired=brought, settled=True, told=told)

    def emptied(self) -> NodeState:
        """The state of a host without a document: nothing of ours is desired."""
        return replace(self, desired=HostState(), settled=False)

    def name_of(self, key: WireGuardKey) -> str:
        """A member's name in the view, for people; else the beginning of its key."""
        member = self.view.members.get(key) if self.view is not None else None
        return member.name if member is not None else key.short

    def present(self, online: Mapping[WireGuardKey, bool | None]) -> NodeState:
        """The state after members of the view came online or went offline, or are not known any more (None)."""
        view = self.view
        if view is None:
            return self
        changed = {
            key: ViewMember(member.name, key, there)
            for key, there in online.items()
            if (member := view.members.get(key)) is not None and member.online is not there
        }
        return replace(self, view=replace(view, members={**view.members, **changed})) if changed else self
