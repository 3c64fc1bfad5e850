"""What people, and the watchers of a host, ask of a node."""

from __future__ import annotations

from dataclasses import dataclass, field

from netctl.config import Loaded
from netctl.node.commit import Terms
from netctl.plan import Binding


@dataclass(frozen=True, slots=True)
class Plan:
    """What an apply of this document would come to. → Planned"""

    loaded: Loaded
    ssh_connection: str = ""
    everyone: bool = False


@dataclass(frozen=True, slots=True)
class Apply:
    """Make this the host's document. → ApplyResult. `holds`: the binding of a plan; refused where it holds no more."""

    loaded: Loaded
    terms: Terms = field(default_factory=Terms)
    holds: Binding | None = None


@dataclass(frozen=True, slots=True)
class Confirm:
    """Keep what is armed. → PendingCommit"""


@dataclass(frozen=True, slots=True)
class RollBack:
    """Take back what is armed; with a nonce only that one. → ApplyOutcome"""

    nonce: str | None = None


@dataclass(frozen=True, slots=True)
class SetDown:
    """Take a network (None: all) down or bring it up. → ApplyOutcome"""

    network: str | None
    down: bool


@dataclass(frozen=True, slots=True)
class Prune:
    """Remove what is ours and in no document; `at_most` None: only say what that is. → (Plan, ApplyOutcome)"""

    at_most: int | None = None


@dataclass(frozen=True, slots=True)
class ForgetLeases:
    """Believe the mediator anew on a member's addresses; None: on all, and on its age. → how many"""

    member: str | None = None


@dataclass(frozen=True, slots=True)
class Join:
    """This host has joined just now: live by what was written down for it. → None"""


@dataclass(frozen=True, slots=True)
class Leave:
    """Leave all networks that this host joined by invite. → ApplyOutcome"""


@dataclass(frozen=True, slots=True)
class CheckDrift:
    """Compare the host with what it should have, now. → None"""


@dataclass(frozen=True, slots=True)
class RestoreRoutes:
    """Routes or addresses of ours may be gone. → how many were set again"""


Request = (
    Plan
    | Apply
    | Confirm
    | RollBack
    | SetDown
    | Prune
    | ForgetLeases
    | Join
    | Leave
    | CheckDrift
    | RestoreRoutes
)
PATIENT = (Plan, Prune, CheckDrift, RestoreRoutes)
"""These wait for their turn however long it takes; the others are told that they wait, and give up."""
