"""Whether the shared port is as good as any other port of this host: what it gets is held against fresh sockets.

| verdict | the port                          | fresh sockets    | what it is                                    |
|---------|-----------------------------------|------------------|-----------------------------------------------|
| fit     | anything else                     |                  |                                               |
| shared  | is seen under another one         | keep their ports | another host behind the NAT has this one      |
| dead    | no STUN server answers, over IPv4 | are answered     | the NAT holds on to a flow that leads nowhere |

A dead port stays dead while anything is sent from it: each packet keeps the NAT's entry alive. So another port is
taken; one that the document fixes rests instead, until every NAT has forgotten.

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
    """When to take another port, and when to let one rest. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self.fixed = False
        """The document names the port, or an endpoint of this host: others rely on it."""
        self._next = float("-inf")
        self._wait = c.PORT_WAIT_FIRST
        self._rest_until: float | None = None
        self._shared = 0
        """Other ports taken one after the other because this one was shared."""

    def wants_another(self, verdict: Verdict, now: float) -> bool:
        """Whether another port is to be taken now. A fixed one that is dead begins to rest instead."""
        if verdict == "fit" or now < self._next or self._rest_until is not None:
            return False
        # A port a minute is for a NAT that loses its address now and then; one that always loses it gets fewer.
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
        """Whether nothing may be sent there now: it would keep a dead flow alive. What is near passes no NAT."""
        return self._rest_until is not None and now < self._rest_until and not is_private(destination)

    def resting_s(self, now: float) -> float:
        """How long the port still rests; 0: it does not."""
        return max(0.0, self._rest_until - now) if self._rest_until is not None else 0.0

    def rested(self, now: float) -> bool:
        """The rest is over just now: ask again."""
        if self._rest_until is None or now < self._rest_until:
            return False
        self._rest_until = None
        return True

    def next_timer(self) -> float | None:
        """When a rest is over."""
        return self._rest_until

    def renewed(self) -> None:
        """It is another port by now."""
        self._rest_until = None
