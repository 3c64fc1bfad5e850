"""Keeps round trips and traffic of each peer for the last minutes, for plots. Pure: takes the time as an
argument."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from netctl.wire.agentrequests import PeerState

WINDOW_S = 180.0
"""Seconds that a plot shows."""
MIN_SPAN_S = 0.5
"""Least seconds between two samples: a rate over less time would be noise."""
MAX_SAMPLES = 200
"""Samples of a peer that are kept: one a second for the window, and some more."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample at `at` (monotonic seconds). Rates: bytes a second since the sample before; `rtt_ms` None: not
    known."""

    at: float
    rtt_ms: float | None
    rx_rate: float
    tx_rate: float


@dataclass(slots=True)
class _Peer:
    at: float
    rx: int
    tx: int
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))


class PeerHistory:
    """The samples of all peers, by name."""

    def __init__(self) -> None:
        self._peers: dict[str, _Peer] = {}

    def observe(self, peers: Iterable[PeerState], now: float) -> None:
        """Take samples; call this about once a second. A counter that is lower than before belongs to a new
        engine."""
        seen = set()
        for peer in peers:
            seen.add(peer.name)
            before = self._peers.get(peer.name)
            if before is None:
                before = self._peers[peer.name] = _Peer(now, peer.rx_bytes, peer.tx_bytes)
                before.samples.append(Sample(now, peer.rtt_ms, 0.0, 0.0))
                continue
            span = now - before.at
            if span < MIN_SPAN_S:
                continue
            rx, tx = _rate(before.rx, peer.rx_bytes, span), _rate(before.tx, peer.tx_bytes, span)
            before.samples.append(Sample(now, peer.rtt_ms, rx, tx))
            before.at, before.rx, before.tx = now, peer.rx_bytes, peer.tx_bytes
        for gone in self._peers.keys() - seen:
            del self._peers[gone]

    def last(self, name: str) -> Sample | None:
        """The newest sample of a peer; None: there is none."""
        peer = self._peers.get(name)
        return peer.samples[-1] if peer is not None else None

    def of(self, name: str, now: float) -> tuple[Sample, ...]:
        """The samples of a peer within the window before `now`, oldest first."""
        peer = self._peers.get(name)
        return tuple(one for one in peer.samples if one.at >= now - WINDOW_S) if peer is not None else ()


def _rate(before: int, after: int, span: float) -> float:
    return (after - before if after >= before else after) / span
