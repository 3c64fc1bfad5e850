"""Whether the direct path in use carries WireGuard's packets, and not only our probes. Sans-IO, of one pair.

Some boxes let probes and STUN pass and drop WireGuard's messages. What the engine counts tells: bytes go out and none
come back. That alone proves nothing (a stream of video has no answer), so the peer is asked, in a probe, to send
something through the tunnel, and its answer says that it did. Three answers of this kind and nothing in the tunnel:
the path is not trusted any more.

state     event                                                         next
TRUSTED   the engine sends, and nothing came back                       WAITING
WAITING   data came                                                     TRUSTED
WAITING   two sendings without an answer, or as long as WireGuard       DOUBTED
          takes for its own keepalive
DOUBTED   data came                                                     TRUSTED
DOUBTED   the peer has sent three times, and nothing came               (the caller gives the path up)
DOUBTED   the peer's program knows of no such question                  RESTING
RESTING   its time is over                                              TRUSTED
any       another path                                                  TRUSTED; DOUBTED where it was given up before

Nothing is sent for this while data is answered, nor for keepalives and the handshakes that they cause. A packet
behind a handshake that nothing follows within KEEPALIVE_WAIT is a doubt, too.
"""

from __future__ import annotations

from enum import Enum

from netctl.paths.constants import (
    ACTIVE_FOR,
    DATA_ASKS,
    DATA_REST,
    DATA_SETTLE,
    DATA_SILENT,
    HANDSHAKE_OVERDUE,
    HANDSHAKES,
    KEEPALIVE_WAIT,
    KEEPALIVES,
    REKEY_AFTER,
)

NO_DATA_CAME = frozenset({92, 148, 184, 240, 296})
"""Bytes of a response, an initiation, and two of them: they are no sign that data passes."""
NO_DATA = "answers probes, but WireGuard's packets do not arrive by it"
NO_HANDSHAKES = "answers probes, but WireGuard's handshakes do not pass"
PEER_SAYS = "the peer says that WireGuard's packets do not arrive by it"


def is_upkeep(came: int, went: int) -> bool:
    """Whether bytes between two looks at the engine are WireGuard's own: keepalives, and handshakes that succeed.

    An initiation that nobody answers is none: a packet of a user may be what waits for it.
    """
    return any(
        came - received in KEEPALIVES and went - sent in KEEPALIVES
        for received, sent in ((0, 0), *HANDSHAKES)
    )


class DataState(Enum):
    """See the table above."""

    TRUSTED = "trusted"
    WAITING = "waiting"
    DOUBTED = "doubted"
    RESTING = "resting"


class DataWatch:
    """Counters are the engine's, in bytes; times are monotonic seconds."""

    def __init__(self) -> None:
        self.state = DataState.TRUSTED
        self._counters: tuple[int, int] | None = None
        self._sent_at = 0.0
        """When the first packet went out that nothing has come back for."""
        self._sendings = 0
        """Looks since then that saw more go out."""
        self._until = 0.0
        """When RESTING is over."""
        self._promised: list[float] = []
        """When the peer said, since the doubt began, that it has sent something."""
        self._unpromised = 0
        """Its answers that said nothing of the kind."""
        self._handshake_s = 0.0
        self._handshake_at: float | None = None
        """When the session began, at the latest."""
        self._busy_since: float | None = None
        self._moved_at = float("-inf")
        self.carried = False
        """Data came by the path that is in use."""

    @property
    def doubted(self) -> bool:
        """The peer is to be asked for data."""
        return self.state is DataState.DOUBTED

    def begin(self, *, doubted: bool) -> None:
        """Another path carries now; `doubted`: it is one that was given up before."""
        self._enter(DataState.DOUBTED if doubted else DataState.TRUSTED)
        self.carried = False
        self._busy_since = None

    def observe(self, rx_bytes: int, tx_bytes: int, handshake_s: float, now: float) -> None:
        """What the engine counts; `handshake_s` is the Unix time of the last handshake, 0: never."""
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
        if came != 0 and came not in NO_DATA_CAME:  # below nothing: an engine that began anew
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

    def answered(self, promised: bool, now: float) -> None:
        """The peer has answered the question; `promised`: it has sent something through the tunnel."""
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
        """An answer that promised data is old enough for it to be here, and it is not."""
        return any(now - at >= DATA_SETTLE for at in self._promised)

    def verdict(self, now: float) -> str | None:
        """Why the path is not to be trusted any more, in words; None: it is, or nobody knows yet."""
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
