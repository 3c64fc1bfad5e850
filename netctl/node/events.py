"""What can happen to a transaction: the answers to its effects (`netctl.node.effects`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netctl.config import Loaded
from netctl.model.addresses import SocketAddress
from netctl.model.foreign import Foreign
from netctl.model.hoststate import HostState
from netctl.model.keys import WireGuardKey
from netctl.model.outcome import ApplyOutcome
from netctl.model.view import View
from netctl.node.choices import Joined
from netctl.node.commit import PendingCommit

MAX_NAMED = 5
"""So many peers are named in a warning."""


@dataclass(frozen=True, slots=True)
class ViewKnown:
    """There is a view to build a network from. `waiting`: why its mediator is not connected just now, or None."""

    waiting: str | None = None


@dataclass(frozen=True, slots=True)
class HostRead:
    """What the host and the mediator say at one moment. `actual` None: it was not asked for."""

    foreign: Foreign
    live: frozenset[WireGuardKey]
    resolved: Mapping[str, SocketAddress]
    view: View | None = None
    actual: HostState | None = None


@dataclass(frozen=True, slots=True)
class WatchdogReady:
    """The way back is on disk, and a process waits for the deadline."""

    record: PendingCommit


@dataclass(frozen=True, slots=True)
class Applied:
    """The engine has come to an end."""

    outcome: ApplyOutcome


@dataclass(frozen=True, slots=True)
class Verified:
    """`cut_off`: why the apply must not stand, or None. `silent`: peers that are there and have not answered yet."""

    cut_off: str | None = None
    silent: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """For people."""
        if not self.silent:
            return ()
        named = ", ".join(self.silent[:MAX_NAMED])
        more = f" and {len(self.silent) - MAX_NAMED} more" if len(self.silent) > MAX_NAMED else ""
        return (f"no handshake yet with {named}{more}: online, but not heard",)


@dataclass(frozen=True, slots=True)
class Stored:
    """It is on disk, also after a crash."""


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """It is not. `reason`: in words."""

    reason: str


@dataclass(frozen=True, slots=True)
class DocumentRead:
    """What the host lives by again. `loaded` None: there was no document, or it was damaged before."""

    loaded: Loaded | None = None
    joined: Joined | None = None


@dataclass(frozen=True, slots=True)
class ViewRecalled:
    """The present view where it is for this document, or what is kept of its mediators; None: there is neither."""

    view: View | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """Doing it raised this."""

    error: BaseException


Event = (
    ViewKnown
    | HostRead
    | WatchdogReady
    | Applied
    | Verified
    | Stored
    | StoreFailed
    | DocumentRead
    | ViewRecalled
    | Failed
)
