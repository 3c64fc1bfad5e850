"""Decides whether the shared port must be changed or rest, by comparing it with fresh sockets of this host.

| verdict | the port                          | fresh sockets    | the cause                                     |
|---------|-----------------------------------|------------------|-----------------------------------------------|
| fit     | anything else                     |                  |                                               |
| shared  | is seen as another port           | keep their ports | another host behind the NAT has this port     |
| dead    | no STUN server answers, over IPv4 | are answered     | the NAT keeps a flow that leads nowhere       |

A dead port stays dead while packets are sent from it: each packet keeps the NAT's entry alive. So another port is
used; a port that the document fixes rests instead, until every NAT has forgotten the flow.

| state | event                        | next                                                       |
|-------|------------------------------|------------------------------------------------------------|
| idle  | dead                         | WAITING, with `AnotherPort`; where it is fixed RESTING     |
| idle  | shared, with tries left      | WAITING, with `AnotherPort`; where it is fixed idle        |
| WAITING, RESTING | the time is over  | idle                                                       |
"""

from __future__ import annotations

from typing import Literal

from netctl.model.addresses import SocketAddress
from netctl.paths import constants as c
from netctl.paths.candidates import is_private

Verdict = Literal["fit", "shared", "dead"]


class PortJudge:
    """Decides when to use another port, and when to let one rest. `now`: monotonic seconds."""

    def __init__(self) -> None:
        self.fixed = False
        """Whether the document names the port or an endpoint of this host, so that others rely on it."""
        self._next = float("-inf")
        self._wait = c.PORT_WAIT_FIRST
        self._rest_until: float | None = None
        self._shared = 0
        """Count of changes in a row because the port was shared."""

    def wants_another(self, verdict: Verdict, now: float) -> bool:
        """Whether to use another port now. A fixed port that is dead begins to rest instead."""
        if verdict == "fit" or now < self._next or self._rest_until is not None:
            return False
        # A change a minute helps with a NAT that loses its address now and then; if it always does, changes are rarer.
        often = now < self._next + c.PORT_CALM
        self._shared = self._shared if often else 0
        if verdict == "shared" and (self.fixed or self._shared >= c.PORT_SHARED_TRIES):
            return False
        self._shared += verdict == "shared"
        self._wait = min(2 * self._wait, c.PORT_WAIT_MAX) if often else c.PORT_WAIT_FIRST
        self._next = now + self._wait
        if self.fixed:
            self._rest_until = now + c.PORT_REST
            self._next += c.PORT_REST
            return False
        return True

    def rests(self, destination: SocketAddress, now: float) -> bool:
        """Whether sending there would keep a dead flow alive: False for private addresses, which pass no NAT."""
        return self._rest_until is not None and now < self._rest_until and not is_private(destination)

    def resting_s(self, now: float) -> float:
        """Seconds for which the port still rests; 0: it does not rest."""
        return max(0.0, self._rest_until - now) if self._rest_until is not None else 0.0

    def rested(self, now: float) -> bool:
        """Whether the rest has just ended, so that the servers must be asked again."""
        if self._rest_until is None or now < self._rest_until:
            return False
        self._rest_until = None
        return True

    def next_timer(self) -> float | None:
        """When the rest ends; None: the port does not rest."""
        return self._rest_until

    def renewed(self) -> None:
        """The shared port has changed: the rest ends."""
        self._rest_until = None
