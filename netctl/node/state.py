"""What a node knows and has decided: one frozen value, replaced whole, never reached into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from netctl.config import Condition, Loaded, Pins
from netctl.model.addresses import Address
from netctl.model.document import Document
from netctl.model.foreign import Foreign
from netctl.model.hoststate import HostState, insisting
from netctl.model.keys import WireGuardKey
from netctl.model.view import View
from netctl.node.choices import NOTHING_DOWN, Down, Joined
from netctl.node.evaluate import Evaluation, evaluate
from netctl.node.events import HostRead


@dataclass(frozen=True, slots=True)
class NodeState:
    """One host. An apply that is under way has an `Evaluation` of its own: nothing of it is here before it stands."""

    loaded: Loaded | None = None
    """The accepted document."""
    joined: Joined | None = None
    """Where the document comes from: an invite, so from the mediator's views; None: from this host, or nowhere yet."""
    view: View | None = None
    """The newest, as the mediator tells it."""
    pins: Pins = field(default_factory=dict)
    """The leases that this host holds its mediator to."""
    down: Down = NOTHING_DOWN
    conditions: tuple[Condition, ...] = ()
    """What is not as the accepted document says, and why."""
    believed: View | None = None
    """What of the view this host believes."""
    leases_refused: Mapping[tuple[str, WireGuardKey], Address] = field(default_factory=dict)
    """What the mediator says against the pins, by network id and key."""
    foreign: Foreign = field(default_factory=Foreign)
    """What of others was on the host when the accepted document was evaluated last."""
    desired: HostState = field(default_factory=HostState)
    """What the host was brought to last."""
    settled: bool = False
    """Whether `desired` is what this life has worked out: before that nothing may be taken for drift."""
    port_turn: int = 0
    """Which port in the place of the usual one (`netctl.node.ownport`); 0: the usual one."""
    waits: bool = False
    """Another host has this one's key and is connected: this one has no peers until that one is gone."""
    told: Document | None = None
    """The document whose fixed endpoints the tunnels were told last."""

    @property
    def document(self) -> Document | None:
        """The accepted document."""
        return self.loaded.document if self.loaded is not None else None

    @property
    def knows(self) -> bool:
        """Whether it is known what the host should have: a document with mediators needs a view, too."""
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
        """What a document wants of this host as it was seen. Raises LocalError when it is no member of it."""
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
        """The accepted document was evaluated anew, whether or not the host can be brought to it."""
        return replace(
            self,
            conditions=evaluation.conditions,
            believed=evaluation.view,
            leases_refused=evaluation.leases_refused or {},
            foreign=evaluation.foreign,
        )

    def brought(self, desired: HostState, told: Document | None) -> NodeState:
        """The host has this state now."""
        return replace(self, desired=insisting(desired, frozenset()), settled=True, told=told)

    def emptied(self) -> NodeState:
        """The host has nothing of ours, because nothing says what it should have."""
        return replace(self, desired=HostState(), settled=False)

    def name_of(self, key: WireGuardKey) -> str:
        """A member's name as the view has it, for people; else the beginning of its key."""
        member = self.view.members.get(key) if self.view is not None else None
        return member.name if member is not None else key.short

    def present(self, key: WireGuardKey, online: bool) -> NodeState:
        """A member of the view came or went."""
        if self.view is None or key not in self.view.members:
            return self
        member = replace(self.view.members[key], online=online)
        return replace(self, view=replace(self.view, members={**self.view.members, key: member}))
