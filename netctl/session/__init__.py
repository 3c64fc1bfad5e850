"""The protocol of the control connection: login, enrolment, views and retries, sans-IO (floor F2)."""

from netctl.session.backoff import Backoff
from netctl.session.client import (
    PROOF_S,
    UNPROVEN,
    ClientSession,
    Closed,
    Effect,
    KeyShared,
    LoggedIn,
    PathMessage,
    PresenceChanged,
    PresenceKnown,
    SendFrame,
    State,
    ViewChanged,
)
from netctl.session.replica import Kept
from netctl.session.stores import KnownStores
from netctl.session.views import open_view

__all__ = [
    "PROOF_S",
    "UNPROVEN",
    "Backoff",
    "ClientSession",
    "Closed",
    "Effect",
    "Kept",
    "KeyShared",
    "KnownStores",
    "LoggedIn",
    "PathMessage",
    "PresenceChanged",
    "PresenceKnown",
    "SendFrame",
    "State",
    "ViewChanged",
    "open_view",
]
