"""Opens the tunnel of a pair anew when its session is over: after this host stood still, or with the first path after
an outage that was longer than a session. For one pair, without I/O.

WireGuard in the kernel gives up its sessions before any suspend, and only this host knows. Its next packet for the peer
begins a handshake at the endpoint of that moment, and the path there may be dead. Then the initiation is lost, and
WireGuard sends the next one after Rekey-Timeout (5 s), whatever endpoint it is given meanwhile. So the engine is
watched after a path has answered: where nothing but handshakes leaves it, it is made to forget the one that it waits
for.

state     event                                                           next
REST      this host stood still, or a path is back                        WAITING
WAITING   a path has answered since then                                  OPENING: a packet is sent through the tunnel
WAITING   the same, and the peer goes first                               OPENING
WAITING   this host stood still again                                     WAITING
OPENING   the peer was to go first, and its time is over                  OPENING: a packet is sent through the tunnel
OPENING   the engine has sent data, so there is a session                 REST
OPENING   it has sent nothing at first: it waits for Rekey-Timeout        OPENING: the handshake is begun anew
OPENING   it has sent handshakes alone for longer than an answer takes    OPENING: the handshake is begun anew
OPENING   the same after `OPEN_ANEW` new handshakes                       REST: WireGuard goes on by itself
OPENING   this host stood still again                                     WAITING
"""

from __future__ import annotations

from enum import Enum

from netctl.model.keys import WireGuardKey
from netctl.paths.constants import (
    FIRST_STEER_REST,
    OPEN_ANEW,
    OPEN_ANSWER,
    OPEN_ANSWER_OTHER,
    OPEN_LOOK,
    OPEN_SLOWER,
)
from netctl.paths.effects import Effect, LookSoon, OpenTunnel
from netctl.wire.wireguard import INITIATION_LEN, RESPONSE_LEN

_HANDSHAKES = frozenset(
    initiations * INITIATION_LEN + responses * RESPONSE_LEN
    for initiations in range(4)
    for responses in range(3)
)
"""Bytes that leave an engine without a session between two readings; nearly all other sums contain data."""
_EARLY_S = 0.01
"""A look that comes so much too early counts: there is no other one for up to a second."""


class ReopeningState(Enum):
    """See the table above."""

    REST = "rest"
    WAITING = "waiting"
    OPENING = "opening"


class Reopening:
    """Times are monotonic seconds; counters are the engine's, in bytes."""

    def __init__(self, key: WireGuardKey, *, chooser: bool) -> None:
        """`chooser`: this side chooses the pair's paths."""
        self._key = key
        self._least_s = OPEN_ANSWER if chooser else OPEN_ANSWER_OTHER
        self.state = ReopeningState.REST
        self._since = 0.0
        self._sent_bytes = 0
        """The engine's counter at the last reading before the tunnel was opened."""
        self._peer_first = False
        """The peer has some time to go first: two initiations that cross make each other void."""
        self._open_at: float | None = None
        """When the tunnel is opened, if the peer goes first."""
        self._opened_at = 0.0
        self._answer_s = self._least_s
        """How long the answer to an initiation may take."""
        self._left = 0
        """How often the handshake may still be begun anew."""

    @property
    def since(self) -> float | None:
        """Since when an answer of a path is waited for; None: none is."""
        return self._since if self.state is ReopeningState.WAITING else None

    def begin(self, now: float, *, peer_first: bool = False) -> None:
        """There may be no session. `peer_first`: the peer may be about to open the tunnel itself."""
        self.state, self._since, self._peer_first = ReopeningState.WAITING, now, peer_first

    def back(self, now: float) -> None:
        """A path is there after an outage that was longer than a session; a peer that was suspended goes first."""
        if self.state is ReopeningState.REST:
            self.begin(now, peer_first=True)

    def answered(self, rtt_s: float | None, now: float) -> list[Effect]:
        """A path has answered. `rtt_s`: its round trip; None: not known."""
        self.state, self._left = ReopeningState.OPENING, OPEN_ANEW
        self._answer_s = max(self._least_s, 3 * (rtt_s or 0.0))
        if not self._peer_first:
            return self._open(now, anew=False)
        self._open_at = now + FIRST_STEER_REST
        return [LookSoon(FIRST_STEER_REST)]

    def observe(self, tx_bytes: int, now: float) -> list[Effect]:
        """Take a reading of the engine."""
        if self.state is not ReopeningState.OPENING:
            self._sent_bytes = tx_bytes
            return []
        if self._open_at is not None:
            self._sent_bytes = tx_bytes
            return self._open(now, anew=False) if now >= self._open_at - _EARLY_S else []
        sent = tx_bytes - self._sent_bytes if tx_bytes >= self._sent_bytes else tx_bytes
        began = sent or self._left < OPEN_ANEW
        due = self._opened_at + (self._answer_s if began else OPEN_LOOK)
        if sent in _HANDSHAKES and now < due - _EARLY_S:
            return []
        if sent not in _HANDSHAKES or not self._left:
            self.state = ReopeningState.REST
            return []
        self._left -= 1
        self._answer_s *= OPEN_SLOWER
        self._sent_bytes = 0  # the engine counts from the beginning
        return self._open(now, anew=True)

    def _open(self, now: float, *, anew: bool) -> list[Effect]:
        self._opened_at, self._open_at = now, None
        return [OpenTunnel(self._key, anew=anew), LookSoon(OPEN_LOOK), LookSoon(self._answer_s)]
