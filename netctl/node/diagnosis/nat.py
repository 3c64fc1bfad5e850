"""The `doctor` checks of the NAT: how it filters, and how it allocates ports."""

from __future__ import annotations

from typing import Any

from netctl.paths.filtering import Filtering4787
from netctl.paths.predict import Allocation

FILTERS: dict[Filtering4787, str] = {
    "endpoint-independent": "endpoint-independent: what comes to an open port gets in, whoever sends it",
    "address-dependent": "address-dependent: hosts that were written to get in, from any port",
    "endpoint-independent or address-dependent": "not by port: hosts that were written to get in from any port; "
    "whether others do is unknown, since the mediator answers from one address alone",
    "address and port-dependent": "address and port-dependent: answers from where we wrote to get in, nothing else",
    "unknown": "unknown: the mediator did not answer from a second port or address",
}


def filtering(found: Filtering4787) -> list[dict[str, Any]]:
    """The check of the NAT's filtering, for people."""
    level = "note" if found == "unknown" else "ok"
    return [
        {
            "level": level,
            "check": "filtering IPv4",
            "text": f"IPv4: filtering {FILTERS[found]}",
            "advice": None,
        }
    ]


def allocation(found: Allocation | None) -> list[dict[str, Any]]:
    """The check of the NAT's port allocation, for people; none where too few answers came."""
    if found is None:
        return []
    by_step = "" if abs(found.step) == 1 else f", {abs(found.step)} at a time"
    text = {
        "kept": "the NAT gives new flows the host's own port",
        "sequential": f"the NAT counts ports {'up' if found.step > 0 else 'down'}{by_step}: peers can predict them",
        "block": f"the NAT gives random ports of a block (about {found.first}-{found.last}): peers can probe them all",
        "random": "the NAT gives random ports of all",
    }[found.kind]
    return [{"level": "ok", "check": "ports IPv4", "text": f"IPv4: {text}", "advice": None}]


def allocation_json(found: Allocation | None) -> dict[str, Any] | None:
    """The port allocation for programs: its kind, the step of a sequential NAT, and the window of the next ports."""
    if found is None:
        return None
    return {
        "kind": found.kind,
        "step": found.step if found.kind == "sequential" else None,
        "window": None
        if found.kind == "kept"
        else [min(found.first, found.last), max(found.first, found.last)],
    }
