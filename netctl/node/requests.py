"""The requests to a node, of people and of the agent's watchers."""

from __future__ import annotations

from dataclasses import dataclass, field

from netctl.config import Loaded
from netctl.node.commit import Terms
from netctl.plan import Binding


@dataclass(frozen=True, slots=True)
class Plan:
    """Plan an apply of this document. → Planned"""

    loaded: Loaded
    ssh_connection: str = ""
    everyone: bool = False


@dataclass(frozen=True, slots=True)
class Apply:
    """Make this the host's document. → ApplyResult. `holds`: the binding of a plan; refused when it does not hold any
    more.
    """

    loaded: Loaded
    terms: Terms = field(default_factory=Terms)
    holds: Binding | None = None


@dataclass(frozen=True, slots=True)
class Confirm:
    """Confirm the pending commit. → PendingCommit"""


@dataclass(frozen=True, slots=True)
class RollBack:
    """Roll the pending commit back; with a nonce only that one. → ApplyOutcome"""

    nonce: str | None = None


@dataclass(frozen=True, slots=True)
class SetDown:
    """Take a network (None: all) down or bring it up. → ApplyOutcome"""

    network: str | None
    down: bool


@dataclass(frozen=True, slots=True)
class Prune:
    """Remove what is ours and no document names; `at_most` None: only report it. → (Plan, ApplyOutcome)"""

    at_most: int | None = None


@dataclass(frozen=True, slots=True)
class ForgetLeases:
    """Accept new addresses from the mediator for a member; None: for all, and an older view too. → pins removed"""

    member: str | None = None


@dataclass(frozen=True, slots=True)
class Join:
    """Use the document that `netctl join` has just written for this host. → None"""


@dataclass(frozen=True, slots=True)
class Leave:
    """Leave all networks that this host joined by invite. → ApplyOutcome"""


@dataclass(frozen=True, slots=True)
class CheckDrift:
    """Compare the host with its desired state now. → None"""


@dataclass(frozen=True, slots=True)
class RestoreRoutes:
    """Set our routes and addresses again that may be gone. → how many were set"""


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
"""Requests that wait for their turn without a limit; a client of any other is told that it waits, and it gives up."""
