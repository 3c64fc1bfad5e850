"""Commit-confirm, as far as it is decided without a clock or a disk: whether an apply is armed, and what leads back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netctl.model.hoststate import HostState
from netctl.model.keys import WireGuardKey
from netctl.plan import Session, carrier, diff

SAVED_S = 600.0
"""Who saves the watched file and then applies it with a confirmation means one change. Not hours later."""

SETTLE_S = 5.0
"""What works for so long after a save works: a login takes a second, a path to a peer about three."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How an apply is asked for. `confirm_s`: arm it for so long; None: only when the session rides on it."""

    confirm_s: float | None = None
    ssh_connection: str = ""
    """What sshd says of the session that asks; empty: none, or confirmation was declined."""
    force: bool = False
    """Apply a document that was rolled back before."""
    unattended: bool = False
    """Nobody is there to confirm: the agent confirms by itself once what worked before works again."""

    @property
    def may_arm(self) -> bool:
        """Whether the checkpoint is needed at all."""
        return self.confirm_s is not None or bool(self.ssh_connection) or self.unattended


@dataclass(frozen=True, slots=True)
class PendingCommit:
    """An apply that waits for `netctl confirm`."""

    nonce: str
    boot_id: str
    deadline_s: float
    """CLOCK_BOOTTIME: it goes on while the host sleeps, and no clock step moves it."""
    digest: str
    """Of the document that is being tried."""
    before: str | None
    """The text of the document that comes back; None: there was none."""
    checkpoint: HostState
    engine: str = "auto"
    unattended: bool = False
    finished: bool = False
    """Whether the apply has come to its end: only then it can be confirmed."""
    joined: str | None = None
    """What `joined.json` said: the network that this host had joined by invite."""

    def remaining_s(self, now_s: float, boot_id: str) -> float:
        """Seconds until the roll-back; 0 or less: now. A record of another boot is over."""
        return self.deadline_s - now_s if self.boot_id == boot_id else 0.0


@dataclass(frozen=True, slots=True)
class Back:
    """What an apply started from: its document by digest, the accepted text before it, and the host."""

    digest: str
    before: str | None
    checkpoint: HostState
    since_s: float

    def holds(self, now: Back) -> bool:
        """Whether an apply of the same document, asked for now, means the change that was made then."""
        return self.digest == now.digest and now.since_s - self.since_s < SAVED_S


@dataclass(frozen=True, slots=True)
class Standing:
    """What the commit-confirm of a node knows when an apply begins."""

    now_s: float = 0.0
    """CLOCK_BOOTTIME."""
    saved: Back | None = None
    """What the last save of the watched file started from."""
    could_be_lost: bool = False
    """Whether anything works now whose loss could be noticed: the mediator, or a tunnel."""


@dataclass(frozen=True, slots=True)
class Arming:
    """For how long to arm an apply (None: not at all), what leads back, and what is remembered of a save."""

    seconds: float | None
    back: Back
    saved: Back | None


def confirm_time(terms: Terms, confirm_s: float, desired: HostState, actual: HostState) -> float | None:
    """For how long an apply is to be armed; None: it is not. `confirm_s` is the document's own.

    Asked for, always. Else only where something changes and the session that asks comes through a tunnel of ours.
    """
    if terms.confirm_s is not None:
        return terms.confirm_s
    if not diff(desired, actual):
        return None
    session = Session.parse(terms.ssh_connection)
    rides = session is not None and carrier(session, actual) is not None
    return confirm_s if rides or terms.unattended else None


def arming(terms: Terms, confirm_s: float, back: Back, desired: HostState, standing: Standing) -> Arming:
    """Whether and how an apply from `back` to `desired` is armed."""
    saved = standing.saved
    if terms.unattended:
        if diff(desired, back.checkpoint):
            saved = back
        if not standing.could_be_lost:
            return Arming(None, back, saved)
    elif saved is not None and saved.holds(back):
        back = saved  # the save itself has brought the host here: what was before it is the way back
    return Arming(confirm_time(terms, confirm_s, desired, back.checkpoint), back, saved)


@dataclass(slots=True)
class Proof:
    """Whether what worked before an apply works after it, where nobody was asked to confirm."""

    connected: bool
    """Whether the mediator was there."""
    live: frozenset[WireGuardKey]
    """The peers that a session was up with."""
    heard: bool = False
    """Whether one of them has said something since the apply."""
    _before: Mapping[WireGuardKey, int] | None = None
    """What each had sent when it was listened to first."""
    _since_s: float | None = None
    """Since when it works."""

    def listen(self, received: Mapping[WireGuardKey, int]) -> None:
        """Bytes that came from each peer so far."""
        if self._before is None:
            self._before = received
        self.heard = any(received[key] > self._before.get(key, 0) for key in self.live if key in received)

    def works(self, *, connected: bool, mediated: bool, wanted: frozenset[WireGuardKey]) -> bool:
        """Whether what worked before works: the mediator, and one tunnel of those still wanted was heard.

        What the document itself takes away (`mediated`, `wanted`) is not missed.
        """
        if self.connected and mediated and not connected:
            return False
        return self.heard or not self.live & wanted

    def settled(self, *, works: bool, now_s: float, left_s: float) -> bool:
        """Whether it has worked for long enough to be believed. `left_s`: until the roll-back."""
        self._since_s = (self._since_s if self._since_s is not None else now_s) if works else None
        return self._since_s is not None and now_s - self._since_s >= min(SETTLE_S, left_s / 2)
