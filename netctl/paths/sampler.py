"""Asks the STUN servers from fresh sockets, since only new flows show how the NAT allocates ports."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.paths import constants as c
from netctl.paths.effects import CloseBatch, Effect, OpenBatch, SendFrom
from netctl.paths.predict import Allocation, Sample, allocation
from netctl.wire import stun


class Sampler:
    """Samples with one batch of `SAMPLES` sockets at a time: each asks one server, the first socket all servers.

    Unanswered requests are repeated once.
    """

    def __init__(self, rng: Callable[[int], bytes], new_batch: Callable[[], int]) -> None:
        self._rng = rng
        self._new_batch = new_batch
        self.batch: int | None = None
        """The batch of the running sampling; None: none is running."""
        self.found: Allocation | None = None
        """The allocation by the last samples; None: not known."""
        self.reached = False
        """Whether any of the last samples was answered."""
        self.answers: Mapping[SocketAddress, SocketAddress | None] = {}
        """The address of one fresh socket that each server saw; None: the server was silent."""
        self._servers: list[SocketAddress] = []
        self._ports: tuple[int, ...] = ()
        self._questions: dict[bytes, tuple[int, SocketAddress]] = {}
        """(socket, server) by transaction: first one request of each socket, then the first socket's other ones."""
        self._mapped: dict[bytes, SocketAddress] = {}
        self._due: list[float] = []

    def begin(self, servers: list[SocketAddress], now: float) -> list[Effect]:
        """Start sampling, unless it is running."""
        if self.batch is not None or not servers:
            return []
        self.batch = self._new_batch()
        self._servers = servers
        self._ports, self._mapped, self.reached = (), {}, False
        self._due = [now + c.SAMPLE_WAIT]
        return [OpenBatch(self.batch, c.SAMPLES)]

    def opened(self, ports: tuple[int, ...], now: float) -> list[Effect]:
        """Take the local ports of the opened sockets, and ask."""
        self._ports = ports
        asked = [(index, self._servers[index % len(self._servers)]) for index in range(len(ports))]
        asked += [(0, server) for server in self._servers[1:] if ports]
        self._questions = {self._rng(stun.TRANSACTION_LEN): question for question in asked}
        self._due = [now + c.SAMPLE_RETRY, now + c.SAMPLE_WAIT]
        return self._ask()

    def _ask(self) -> list[Effect]:
        assert self.batch is not None
        return [
            SendFrom(self.batch, index, server, stun.binding_request(transaction))
            for transaction, (index, server) in self._questions.items()
            if transaction not in self._mapped
        ]

    def handle(self, index: int, data: bytes, source: SocketAddress) -> list[Effect]:
        """Take a datagram received by one of the sockets; only the asked server's answer counts."""
        try:
            message = stun.decode(data)
            mapped = message.mapped
        except RemoteError:
            return []
        if message.kind != stun.BINDING_SUCCESS or not message.fingerprint or mapped is None:
            return []
        if self._questions.get(message.transaction) != (index, source) or mapped.is_ipv6:
            return []
        self._mapped[message.transaction] = mapped
        self.reached = True
        return self._finish() if len(self._mapped) == len(self._questions) else []

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        return self._due[0] if self.batch is not None and self._due else None

    def handle_timer(self, now: float) -> list[Effect]:
        """Repeat unanswered requests, or evaluate the answers."""
        if self.batch is None or not self._due or now < self._due[0]:
            return []
        self._due = [at for at in self._due if at > now]
        return self._ask() if self._due else self._finish()

    def _finish(self) -> list[Effect]:
        assert self.batch is not None
        seen = [(*question, self._mapped.get(asked)) for asked, question in self._questions.items()]
        fresh = seen[: len(self._ports)]
        self.found = allocation(
            [Sample(self._ports[index], mapped) for index, _, mapped in fresh if mapped is not None]
        )
        self.answers = {server: mapped for index, server, mapped in seen if index == 0}
        closed, self.batch = self.batch, None
        return [CloseBatch(closed)]
