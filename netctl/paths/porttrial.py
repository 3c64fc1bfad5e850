"""Keeps a new port from the peers until it was compared with fresh sockets: a port that is left at once is never used.

Packets of peers to a port that this host has left are lost until the peers know the next one. So no pair begins a round
or asks for the relay before the port is known to be fit, or has been changed.

| state   | event                                           | next                        |
|---------|-------------------------------------------------|-----------------------------|
| KNOWN   | a port is opened, and no pair has begun         | NEW                         |
| NEW     | own addresses are known, the mediator connected | ASKED: servers are asked    |
| ASKED   | the answers are there, or the time is over      | KNOWN: pairs begin          |
| ASKED   | the port is unfit: `AnotherPort`                | LEAVING                     |
| ASKED   | the mediator is gone                            | NEW                         |
| LEAVING | the next port is opened                         | NEW                         |
| LEAVING | the time is over: this host could not change it | KNOWN: pairs begin          |
"""

from __future__ import annotations

from enum import Enum

from netctl.paths import constants as c


class TrialState(Enum):
    """See the table above."""

    KNOWN = "known"
    NEW = "new"
    ASKED = "asked"
    LEAVING = "leaving"


class PortTrial:
    """The trial of the shared port. `now`: monotonic seconds. Without `opened` the port counts as known."""

    def __init__(self) -> None:
        self.state = TrialState.KNOWN
        self._looked = False
        """Whether this host's addresses were read since the port was opened."""
        self._until: float | None = None

    @property
    def pending(self) -> bool:
        """Whether no peer may be told of the port yet."""
        return self.state is not TrialState.KNOWN

    def opened(self) -> None:
        """A port was opened that no peer knows."""
        self.state, self._looked, self._until = TrialState.NEW, False, None

    def looked(self) -> bool:
        """This host's addresses were read. True: for the first time since the port was opened."""
        first, self._looked = self.pending and not self._looked, True
        return first

    def asked(self, now: float) -> None:
        """The mediator is connected, and its servers are asked, if the port is open and the addresses are known."""
        if self.state is TrialState.NEW and self._looked:
            self.state, self._until = TrialState.ASKED, now + c.PORT_TRIAL

    def disconnected(self) -> None:
        """The mediator is gone: its servers will be asked anew."""
        if self.state is TrialState.ASKED:
            self.state, self._until = TrialState.NEW, None

    def leaves(self, now: float) -> None:
        """Another port is wanted in the place of this one."""
        if self.pending:
            self.state, self._until = TrialState.LEAVING, now + c.PORT_LEAVE

    def ends(self, answered: bool, now: float) -> bool:
        """Whether the trial ends now. `answered`: no more answers are waited for, and the port is not left."""
        over = self._until is not None and now >= self._until
        if not over and not (answered and self.state is TrialState.ASKED):
            return False
        self.state, self._until = TrialState.KNOWN, None
        return True

    def next_timer(self) -> float | None:
        """When the trial is over at the latest; None: nothing is waited for."""
        return self._until
