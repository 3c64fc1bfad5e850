"""Whom the NAT or firewall in front of this host lets in (RFC 4787 §5), found as RFC 5780 §4.4 does.

A fresh socket asks a STUN server to answer from its other port, another one to answer from its other address and port.
Fresh, since all the server's ports have been written to from the WireGuard port: its filter is open for them. What the
server cannot do it refuses with an error from the address that was asked, so silence means that the answer was dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.paths import constants as c
from netctl.paths.effects import CloseBatch, Effect, OpenBatch, SendFrom
from netctl.wire import stun

Filtering4787 = Literal[
    "endpoint-independent",
    "address-dependent",
    "endpoint-independent or address-dependent",
    "address and port-dependent",
    "unknown",
]
Verdict = Literal["passed", "silent", "refused"]
"""What became of one wish."""

WISHES = (stun.CHANGE_PORT, stun.CHANGE_ADDRESS | stun.CHANGE_PORT)
"""What the two sockets ask for."""

JUDGED: dict[tuple[Verdict, Verdict], Filtering4787] = {
    # (other port, other address and port)
    ("passed", "passed"): "endpoint-independent",
    ("silent", "passed"): "endpoint-independent",  # the one answer was lost
    ("refused", "passed"): "endpoint-independent",
    ("passed", "silent"): "address-dependent",
    ("passed", "refused"): "endpoint-independent or address-dependent",
    ("silent", "silent"): "address and port-dependent",
    ("silent", "refused"): "address and port-dependent",
    ("refused", "silent"): "unknown",
    ("refused", "refused"): "unknown",
}


class FilterTest:
    """One test at a time, of the IPv4 filter."""

    def __init__(self, rng: Callable[[int], bytes], new_batch: Callable[[], int]) -> None:
        self._rng = rng
        self._new_batch = new_batch
        self.batch: int | None = None
        """The two sockets that are out, None: no test goes on."""
        self.found: Filtering4787 = "unknown"
        """What the last test said."""
        self._server: SocketAddress | None = None
        self._transactions: list[bytes] = []
        self._verdicts: dict[int, Verdict] = {}
        self._due: list[float] = []

    def begin(self, server: SocketAddress, now: float) -> list[Effect]:
        """Test now, with a server that answers, unless that goes on already."""
        if self.batch is not None:
            return []
        self.batch = self._new_batch()
        self._server = server
        self._transactions, self._verdicts = [], {}
        self._due = [now + c.FILTER_WAIT]
        return [OpenBatch(self.batch, len(WISHES))]

    def opened(self, ports: tuple[int, ...], now: float) -> list[Effect]:
        """The sockets are there (as many as the system gave)."""
        if len(ports) < len(WISHES):
            return self._close()
        self._transactions = [self._rng(stun.TRANSACTION_LEN) for _ in WISHES]
        self._due = [now + c.FILTER_RETRY * n for n in range(1, c.FILTER_TRIES)] + [now + c.FILTER_WAIT]
        return self._ask()

    def _ask(self) -> list[Effect]:
        assert self.batch is not None
        assert self._server is not None
        return [
            SendFrom(self.batch, index, self._server, stun.binding_request(tag, WISHES[index]))
            for index, tag in enumerate(self._transactions)
            if index not in self._verdicts
        ]

    def handle(self, index: int, data: bytes, source: SocketAddress) -> list[Effect]:
        """Something arrived on one of the sockets; only answers to our questions count."""
        if index >= len(self._transactions):
            return []
        try:
            message = stun.decode(data)
        except RemoteError:
            return []
        if message.transaction != self._transactions[index] or not message.fingerprint:
            return []
        if message.kind == stun.BINDING_SUCCESS and source != self._server:
            # A server that ignores the wish answers from where it was asked: that says nothing.
            self._verdicts[index] = "passed"
        elif source == self._server:
            self._verdicts[index] = "refused"
        return self._finish() if len(self._verdicts) == len(WISHES) else []

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        return self._due[0] if self.batch is not None and self._due else None

    def handle_timer(self, now: float) -> list[Effect]:
        """Ask again what is silent, or judge what there is."""
        if self.batch is None or not self._due or now < self._due[0]:
            return []
        self._due = [at for at in self._due if at > now]
        return self._ask() if self._due else self._finish()

    def _finish(self) -> list[Effect]:
        if self._transactions:
            port, both = (self._verdicts.get(index, "silent") for index in range(len(WISHES)))
            self.found = JUDGED[port, both]
        return self._close()

    def _close(self) -> list[Effect]:
        assert self.batch is not None
        closed, self.batch = self.batch, None
        return [CloseBatch(closed)]
