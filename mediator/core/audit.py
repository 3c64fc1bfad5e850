"""The audit log: who let whom in or shut whom out, and which document came into force. One line each, in the store.

A line is written in the transaction of what it tells, so there is none without the other. It is for people: nothing is
decided by it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mediator.core.admissions import Verdict
from netctl.model.keys import WireGuardKey

MAX_ENTRIES = 100_000
"""The oldest go first. Ten a day fill it in 27 years, and it is some 20 MB; nobody who is not let in writes a line."""
PAGE = 1000
"""Entries that are read and answered at once: some 200 kB."""
OPERATOR = "operator"
"""Who did it, where whoever asked did not say who he is."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line."""

    number: int
    """Counts up by one, never back."""
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
    hosts = "1 use" if uses == 1 else f"{uses} uses"
    return f"network '{network}', {hosts}, until {until}" + (f", for '{name}'" if name else "")


def of_joined(verdict: Verdict) -> str:
    """The detail of `joined`."""
    entry = verdict.admission
    waits = ", waits for approval" if entry.pending else ""
    return f"network '{verdict.network}' with invite {entry.invite}, {of_key(entry.key)}{waits}"


def of_key(key: WireGuardKey) -> str:
    """The detail of what is about one key."""
    return f"key {key}"


def of_rekeyed(old: WireGuardKey, key: WireGuardKey) -> str:
    """The detail of `rekeyed`."""
    return f"key {key} in the place of {old}"
