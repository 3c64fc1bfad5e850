"""Detects that the direct path in use carries our probes but not WireGuard's packets. For one pair, without I/O.

Some middleboxes pass probes and STUN but drop WireGuard's messages. The engine's counters show it: bytes are sent and
none are received. That alone proves nothing (a video stream has no answer). So a probe asks the peer to send a packet
through the tunnel, and the peer's pong says that it did. After three such pongs and no data in the tunnel, the path is
no longer trusted.

state     event                                                         next
TRUSTED   the engine sends, and has received nothing                    WAITING
WAITING   data received                                                 TRUSTED
WAITING   two sendings without data received, or the time that          DOUBTED
          WireGuard takes for its own keepalive is over
DOUBTED   data received                                                 TRUSTED
DOUBTED   the peer has sent three times, and nothing was received       (the caller gives the path up)
DOUBTED   the peer's program does not know such requests                RESTING
RESTING   its time is over                                              TRUSTED
any       another path                                                  TRUSTED; DOUBTED if it was given up before

Nothing is sent for this while data is answered, nor for keepalives and the handshakes that they cause. A packet
after a handshake without an answer within KEEPALIVE_WAIT causes doubt, too.
"""

from __future__ import annotations

import functools
from enum import Enum

from netctl.paths.constants import (
    ACTIVE_FOR,
    DATA_ASKS,
    DATA_REST,
    DATA_SETTLE,
    DATA_SILENT,
    ECHOES,
    HANDSHAKE_OVERDUE,
    HANDSHAKES,
    KEEPALIVE_WAIT,
    KEEPALIVES,
    MAX_ECHOES,
    REJECT_AFTER,
    REKEY_AFTER,
)

NO_DATA_CAME = frozenset({92, 148, 184, 240, 296})
"""Bytes of a response, an initiation, and two of them: receiving them does not prove that data passes."""
UPKEEP_KNOWN = 1024
"""Results of `is_upkeep` to keep: between most readings nothing came, or a keepalive."""
NO_DATA = "answers probes, but WireGuard's packets do not arrive by it"
NO_HANDSHAKES = "answers probes, but WireGuard's handshakes do not pass"
PEER_SAYS = "the peer says that WireGuard's packets do not arrive by it"


@functools.lru_cache(UPKEEP_KNOWN)
def is_upkeep(came: int, went: int, asked: int = 0) -> bool:
    """Whether the bytes between two readings of the engine are no user's: keepalives, successful handshakes,
    echoes.

    `asked`: echo requests of our own viewer that may be among them. Those of the peer's are known by their
    replies: as many messages of this length in both directions. An unanswered initiation does not count as
    upkeep: a user's packet may be waiting for the handshake.
    """
    return any(
        (came - received in KEEPALIVES and went - sent in KEEPALIVES)
        or _are_echoes(came - received, went - sent, asked)
        for received, sent in ((0, 0), *HANDSHAKES)
    )


def _are_echoes(came: int, went: int, asked: int) -> bool:
    if not 0 <= came <= MAX_ECHOES * max(ECHOES) + max(KEEPALIVES):
        return False
    return any(
        abs(received - sent) <= asked
        for size in ECHOES
        for received in _echoes(came, size)
        for sent in _echoes(went, size)
    )


def _echoes(count: int, size: int) -> list[int]:
    """How many echoes of a size there can be in so many bytes, beside keepalives."""
    found = (divmod(count - keepalives, size) for keepalives in KEEPALIVES)
    return [number for number, rest in found if rest == 0 and 0 <= number <= MAX_ECHOES]


class DataState(Enum):
    """See the table above."""

    TRUSTED = "trusted"
    WAITING = "waiting"
    DOUBTED = "doubted"
    RESTING = "resting"


class DataWatch:
    """Watches the path in use of one pair. Counters are the engine's, in bytes; times are monotonic seconds."""

    def __init__(self) -> None:
        self.state = DataState.TRUSTED
        self._counters: tuple[int, int] | None = None
        self._sent_at = 0.0
        """When the first packet without an answer was sent."""
        self._sendings = 0
        """Readings since then in which more was sent."""
        self._until = 0.0
        """When RESTING ends."""
        self._promised: list[float] = []
        """When the peer said, since the doubt began, that it has sent data."""
        self._unpromised = 0
        """Count of the peer's answers that did not say so."""
        self._handshake_s = 0.0
        self._handshake_at: float | None = None
        """The latest possible start of the session."""
        self._busy_since: float | None = None
        self._moved_at = float("-inf")
        self.carried = False
        """Whether data was received by the path in use."""

    @property
    def doubted(self) -> bool:
        """Whether the peer is to be asked for data."""
        return self.state is DataState.DOUBTED

    def begin(self, *, doubted: bool) -> None:
        """Start with another path; `doubted`: the path was given up before."""
        self._enter(DataState.DOUBTED if doubted else DataState.TRUSTED)
        self.carried = False
        self._busy_since = None

    def observe(self, rx_bytes: int, tx_bytes: int, handshake_s: float, now: float) -> None:
        """Take a reading of the engine; `handshake_s`: Unix time of the last handshake, 0: never."""
        before, self._counters = self._counters, (rx_bytes, tx_bytes)
        if self._handshake_at is None or abs(handshake_s - self._handshake_s) > 0.5:
            self._handshake_s, self._handshake_at = handshake_s, now
        if before is None:
            return
        came, went = rx_bytes - before[0], tx_bytes - before[1]
        if came or went:
            if self._busy_since is None or now - self._moved_at > ACTIVE_FOR:
                self._busy_since = now
            self._moved_at = now
        if self.state is DataState.RESTING:
            if now >= self._until:
                self._enter(DataState.TRUSTED)
            return
        if came != 0 and came not in NO_DATA_CAME:  # negative: the engine was restarted
            self._enter(DataState.TRUSTED)
            self.carried = True
            return
        if went > 0 and not is_upkeep(came, went):
            self._sendings += 1
            if self.state is DataState.TRUSTED:
                self.state, self._sent_at = DataState.WAITING, now
        if self.state is DataState.WAITING:
            waited = now - self._sent_at
            if (self._sendings >= 2 and waited >= DATA_SILENT) or waited >= KEEPALIVE_WAIT:
                self._enter(DataState.DOUBTED)

    def session_over(self, now: float) -> bool:
        """Whether there was a session, which is too old by now."""
        known = self._handshake_s > 0 and self._handshake_at is not None
        return known and now - (self._handshake_at or now) >= REJECT_AFTER

    def answered(self, promised: bool, now: float) -> None:
        """Take the peer's answer to a request; `promised`: it says that it has sent data through the tunnel."""
        if not self.doubted:
            return
        if promised:
            self._promised.append(now)
            return
        self._unpromised += 1
        if self._unpromised >= DATA_ASKS and not self._promised:
            self._enter(DataState.RESTING)
            self._until = now + DATA_REST

    def shaken(self, now: float) -> bool:
        """Whether promised data should have arrived by now and has not."""
        return any(now - at >= DATA_SETTLE for at in self._promised)

    def verdict(self, now: float) -> str | None:
        """Why the path is no longer trusted, in words; None: it is trusted, or not yet judged."""
        if self.doubted and sum(now - at >= DATA_SETTLE for at in self._promised) >= DATA_ASKS:
            return NO_DATA
        if self._handshake_s > 0 and self._handshake_at is not None and self._busy_since is not None:
            due = max(self._handshake_at + REKEY_AFTER, self._busy_since)
            if now - due >= HANDSHAKE_OVERDUE and now - self._moved_at <= ACTIVE_FOR:
                return NO_HANDSHAKES
        return None

    def _enter(self, state: DataState) -> None:
        self.state = state
        self._sendings = self._unpromised = 0
        self._promised = []
