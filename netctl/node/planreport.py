"""A plan for people and programs: changes of the host, what they mean, and the binding of the plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from netctl.config import Loaded, ReachChanges, reach_changes, reach_lines, reach_to_json
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.model.hoststate import HostState
from netctl.model.view import View
from netctl.plan import Binding, Plan, Session, carrier, diff, drops, plan_to_json, state_digest

FORMAT = "netctl/plan/v1"
"""Of the JSON (`schemas/plan.schema.json`)."""


@dataclass(frozen=True, slots=True)
class Planned:
    """The report of a plan. `drops`: why the session that asked for it would end, or None."""

    member: str
    plan: Plan
    people: ReachChanges
    binding: Binding
    warnings: tuple[str, ...] = ()
    rides: bool = False
    drops: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As `schemas/plan.schema.json` says, all values plain."""
        return {
            "format": FORMAT,
            "member": self.member,
            **plan_to_json(self.plan),
            "people": {"lines": reach_lines(self.people), **reach_to_json(self.people)},
            "session": {"rides": self.rides, "drops": self.drops},
            "binding": {
                "document": self.binding.document,
                "observed": self.binding.observed,
                "desired": self.binding.desired,
            },
            "warnings": list(self.warnings),
        }


def binding(loaded: Loaded, desired: HostState, actual: HostState) -> Binding:
    """The present binding: digests of what a plan depends on."""
    return Binding(loaded.document.digest, state_digest(actual), state_digest(desired))


def make_plan(
    member: str,
    loaded: Loaded,
    before: Document | None,
    after: Document,
    desired: HostState,
    actual: HostState,
    *,
    view: View | None = None,
    ssh_connection: str = "",
    everyone: bool = False,
    refusals: tuple[str, ...] = (),
) -> Planned:
    """The plan of one host. `before` and `after`: the documents without what is down.

    `ssh_connection`: SSH_CONNECTION of the asking session, or empty. `everyone`: what changes for people on every
    host, not only for this member. `refusals`: what of the document this host cannot have.
    """
    session = Session.parse(ssh_connection)
    return Planned(
        member=member,
        plan=diff(desired, actual),
        people=reach_changes(before, after, view=view, about=None if everyone else member),
        binding=binding(loaded, desired, actual),
        warnings=(*(str(finding) for finding in loaded.warnings), *refusals),
        rides=session is not None and carrier(session, actual) is not None,
        drops=drops(session, desired, actual) if session is not None else None,
    )


def expected(request: Any) -> Binding | None:
    """The binding that an apply is asked to hold to. Raises LocalError when the value is no binding."""
    if request is None:
        return None
    try:
        return Binding(str(request["document"]), str(request["observed"]), str(request["desired"]))
    except (TypeError, KeyError):
        raise LocalError("the plan has no binding: make it anew with `netctl plan --out`") from None


def refuse_stale(wanted: Binding | None, now: Binding) -> None:
    """Raises LocalError when a plan does not hold any more, naming what has changed."""
    reason = wanted.stale(now) if wanted is not None else None
    if reason is not None:
        raise LocalError(
            f"this plan is stale: {reason}; nothing was changed. Make it anew: `netctl plan --out`"
        )
