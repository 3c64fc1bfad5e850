"""Tests which senders the NAT or firewall in front of this host admits (RFC 4787 §5), by the method of RFC 5780 §4.4.

A fresh socket asks a STUN server to answer from its other port, a second one to answer from its other address and port.
The sockets must be fresh: the WireGuard port has sent to all the server's ports, so its filter is open for them. A
server that cannot fulfil a request answers with an error from the asked address, so silence means a dropped answer.
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
"""The result of one request."""

WISHES = (stun.CHANGE_PORT, stun.CHANGE_ADDRESS | stun.CHANGE_PORT)
"""The flags of CHANGE-REQUEST that the two sockets send."""

JUDGED: dict[tuple[Verdict, Verdict], Filtering4787] = {
    # (other port, other address and port)
    ("passed", "passed"): "endpoint-independent",
    ("silent", "passed"): "endpoint-independent",  # the first answer was lost
    ("refused", "passed"): "endpoint-independent",
    ("passed", "silent"): "address-dependent",
    ("passed", "refused"): "endpoint-independent or address-dependent",
    ("silent", "silent"): "address and port-dependent",
    ("silent", "refused"): "address and port-dependent",
    ("refused", "silent"): "unknown",
    ("refused", "refused"): "unknown",
}


class FilterTest:
    """Tests the IPv4 filter, one test at a time."""

    def __init__(self, rng: Callable[[int], bytes], new_batch: Callable[[], int]) -> None:
        self._rng = rng
        self._new_batch = new_batch
        self.batch: int | None = None
        """The batch with the two sockets of the running test; None: no test is running."""
        self.found: Filtering4787 = "unknown"
        """The result of the last test."""
        self._server: SocketAddress | None = None
        self._transactions: list[bytes] = []
        self._verdicts: dict[int, Verdict] = {}
        self._due: list[float] = []

    def begin(self, server: SocketAddress, now: float) -> list[Effect]:
        """Start a test with a server that answers, unless one is running."""
        if self.batch is not None:
            return []
        self.batch = self._new_batch()
        self._server = server
        self._transactions, self._verdicts = [], {}
        self._due = [now + c.FILTER_WAIT]
        return [OpenBatch(self.batch, len(WISHES))]

    def opened(self, ports: tuple[int, ...], now: float) -> list[Effect]:
        """Take the local ports of the opened sockets, and ask; with too few sockets the test ends."""
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
        """Take a datagram received by one of the sockets; only answers to our requests count."""
        if index >= len(self._transactions):
            return []
        try:
            message = stun.decode(data)
        except RemoteError:
            return []
        if message.transaction != self._transactions[index] or not message.fingerprint:
            return []
        if message.kind == stun.BINDING_SUCCESS and source != self._server:
            # A server that ignores the request answers from the asked address, which proves nothing.
            self._verdicts[index] = "passed"
        elif source == self._server:
            self._verdicts[index] = "refused"
        return self._finish() if len(self._verdicts) == len(WISHES) else []

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        return self._due[0] if self.batch is not None and self._due else None

    def handle_timer(self, now: float) -> list[Effect]:
        """Repeat unanswered requests, or end the test."""
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
