"""Commit-confirm without a clock or a disk: whether an apply is armed, and to which state a roll-back returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netctl.model.hoststate import HostState
from netctl.model.keys import WireGuardKey
from netctl.plan import Session, carrier, diff

SAVED_S = 600.0
"""Seconds after a save of the watched file in which `apply --confirm` of the same document continues that change."""

SETTLE_S = 5.0
"""Seconds that everything must work after a save to count as working: a login takes 1 s, a path to a peer about 3."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How an apply is asked for. `confirm_s`: arm it for so many seconds; None: arm it only if the session needs a
    tunnel.
    """

    confirm_s: float | None = None
    ssh_connection: str = ""
    """SSH_CONNECTION of the session that asks; empty: no such session, or the user declined confirmation."""
    force: bool = False
    """Apply a document that was rolled back before."""
    unattended: bool = False
    """Nobody is there to confirm: the agent confirms by itself once everything works again that worked before."""

    @property
    def may_arm(self) -> bool:
        """Whether this apply can become armed, so that it needs a checkpoint."""
        return self.confirm_s is not None or bool(self.ssh_connection) or self.unattended


@dataclass(frozen=True, slots=True)
class PendingCommit:
    """An apply that waits for `netctl confirm`."""

    nonce: str
    boot_id: str
    deadline_s: float
    """CLOCK_BOOTTIME, which goes on while the host sleeps and which no clock step moves."""
    digest: str
    """The digest of the document that is being tried."""
    before: str | None
    """The text of the document that a roll-back restores; None: there was none."""
    checkpoint: HostState
    engine: str = "auto"
    unattended: bool = False
    finished: bool = False
    """Whether the apply has ended: only then it can be confirmed."""
    joined: str | None = None
    """The content of `joined.json` before: the network that this host had joined by invite."""

    def remaining_s(self, now_s: float, boot_id: str) -> float:
        """Seconds until the roll-back; 0 or less: it is due. A record of another boot is due at once."""
        return self.deadline_s - now_s if self.boot_id == boot_id else 0.0


@dataclass(frozen=True, slots=True)
class Back:
    """The state before an apply: digest of the new document, text of the accepted one, and the host's state."""

    digest: str
    before: str | None
    checkpoint: HostState
    since_s: float

    def holds(self, now: Back) -> bool:
        """Whether an apply that is asked for `now` continues this change: the same document, within SAVED_S."""
        return self.digest == now.digest and now.since_s - self.since_s < SAVED_S


@dataclass(frozen=True, slots=True)
class Standing:
    """What a node knows about commit-confirm when an apply begins."""

    now_s: float = 0.0
    """Now, on CLOCK_BOOTTIME."""
    saved: Back | None = None
    """The state before the last save of the watched file."""
    could_be_lost: bool = False
    """Whether anything works now that the apply could break noticeably: the mediator, or a tunnel."""


@dataclass(frozen=True, slots=True)
class Arming:
    """The decision: seconds to arm for (None: not armed), the state to return to, and what is remembered of a save."""

    seconds: float | None
    back: Back
    saved: Back | None


def confirm_time(terms: Terms, confirm_s: float, desired: HostState, actual: HostState) -> float | None:
    """Seconds for which an apply is armed; None: it is not armed. `confirm_s` is the document's own value.

    An apply with an explicit time is always armed. Any other one is armed only where it changes something and the
    asking session comes through one of netctl's tunnels, or nobody is there to confirm.
    """
    if terms.confirm_s is not None:
        return terms.confirm_s
    if not diff(desired, actual):
        return None
    session = Session.parse(terms.ssh_connection)
    rides = session is not None and carrier(session, actual) is not None
    return confirm_s if rides or terms.unattended else None


def arming(terms: Terms, confirm_s: float, back: Back, desired: HostState, standing: Standing) -> Arming:
    """Decide whether and for how long an apply from `back` to `desired` is armed."""
    saved = standing.saved
    if terms.unattended:
        if diff(desired, back.checkpoint):
            saved = back
        if not standing.could_be_lost:
            return Arming(None, back, saved)
    elif saved is not None and saved.holds(back):
        back = saved  # the save has already changed the host: return to the state before the save
    return Arming(confirm_time(terms, confirm_s, desired, back.checkpoint), back, saved)


@dataclass(slots=True)
class Proof:
    """Checks after an unattended apply that everything still works that worked before."""

    connected: bool
    """Whether the mediator was connected before."""
    live: frozenset[WireGuardKey]
    """The peers that had a session before."""
    heard: bool = False
    """Whether one of these peers has sent something since the apply."""
    _before: Mapping[WireGuardKey, int] | None = None
    """Bytes received from each peer at the first reading after the apply."""
    _since_s: float | None = None
    """When the present stretch of working began, in seconds; None: something does not work."""

    def listen(self, received: Mapping[WireGuardKey, int]) -> None:
        """Take the byte counters: bytes received from each peer so far."""
        if self._before is None:
            self._before = received
        self.heard = any(received[key] > self._before.get(key, 0) for key in self.live if key in received)

    def works(self, *, connected: bool, mediated: bool, wanted: frozenset[WireGuardKey]) -> bool:
        """Whether the mediator is connected and a peer that is still wanted was heard, where that was so before.

        What the new document itself removes (`mediated`, `wanted`) is not missed.
        """
        if self.connected and mediated and not connected:
            return False
        return self.heard or not self.live & wanted

    def settled(self, *, works: bool, now_s: float, left_s: float) -> bool:
        """Whether everything has worked for SETTLE_S, or half of `left_s`, the seconds until the roll-back."""
        self._since_s = (self._since_s if self._since_s is not None else now_s) if works else None
        return self._since_s is not None and now_s - self._since_s >= min(SETTLE_S, left_s / 2)
