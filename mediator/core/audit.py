"""The audit log in the store: a line for each admission, revocation and new document, with the person responsible.

A line is part of the transaction that it describes, so neither exists without the other. It is for people: no decision
depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mediator.core.admissions import Verdict
from netctl.model.forpeople import counted
from netctl.model.keys import WireGuardKey

MAX_ENTRIES = 100_000
"""Lines kept; the oldest are removed. Ten a day fill it in 27 years (about 20 MB); only admitted hosts cause lines."""
PAGE = 1000
"""Entries per answer: about 200 kB."""
OPERATOR = "operator"
"""`who` of a request without a login name."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the audit log."""

    number: int
    """Increases by one per line, never decreases."""
    at_s: int
    """Unix time, by the mediator's clock."""
    who: str
    """An operator's login, the name of a member that acted for itself, or the file of a document."""
    what: str
    """invited, invite-revoked, joined, approved, rejected, revoked, restored, rekeyed, left or document."""
    subject: str
    """A member's name, the id of an invite, or the digest of a document (SHA-256, hexadecimal)."""
    detail: str


def of_invite(network: str, uses: int, until: str, name: str) -> str:
    """The detail of `invited`; `until`: a date."""
    hosts = counted(uses, "use")
    return f"network '{network}', {hosts}, until {until}" + (f", for '{name}'" if name else "")


def of_joined(verdict: Verdict) -> str:
    """The detail of `joined`."""
    entry = verdict.admission
    waits = ", waits for approval" if entry.pending else ""
    return f"network '{verdict.network}' with invite {entry.invite}, {of_key(entry.key)}{waits}"


def of_key(key: WireGuardKey) -> str:
    """The detail of a line about one key."""
    return f"key {key}"


def of_rekeyed(old: WireGuardKey, key: WireGuardKey) -> str:
    """The detail of `rekeyed`."""
    return f"key {key} in the place of {old}"
