"""The open connections of a mediator, and the members that are logged in on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mediator.core.introducer import Allowance
from mediator.core.pace import Questions
from mediator.core.viewcache import ViewClass
from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.model.keys import WireGuardKey
from netctl.wire.control import Login

KEEPALIVE_S = 20.0
"""Below 60 s, after which the most impatient middleboxes drop an idle TCP flow."""
SILENCE_S = 2.5 * KEEPALIVE_S
"""A member silent for so long counts as gone: one ping may be lost."""
LOGIN_TIMEOUT_S = 10.0
"""A login is two small messages; only an attacker needs longer."""


@dataclass(slots=True)
class Connection:
    """One connection. Times are monotonic seconds."""

    source: SocketAddress
    nonce: bytes
    """32 bytes, sent in the connection's `Hello`."""
    since: float
    heard: float
    """When the last frame arrived."""
    offers: Allowance
    member: WireGuardKey | None = None
    """The member that is logged in; None: nobody yet."""
    questions: Questions | None = None
    """Set at login."""
    minor: int = 0
    """The newest minor version of the protocol that the member knows; set at login."""
    shown: ViewClass | None = None
    """The view that the member has been sent."""
    waiting: Login | None = None
    """A valid login that waits for the answer of another connection with the same key."""
    looked: bool = False
    """Whether the store was read for this login."""

    @property
    def deadline(self) -> float:
        """When the connection is dropped, unless something is heard before."""
        return self.since + LOGIN_TIMEOUT_S if self.member is None else self.heard + SILENCE_S


class Connections:
    """All connections by number, and the number of each logged-in member's connection."""

    def __init__(self) -> None:
        self._by_number: dict[int, Connection] = {}
        self.online: dict[WireGuardKey, int] = {}

    def __getitem__(self, number: int) -> Connection:
        return self._by_number[number]

    def __contains__(self, number: object) -> bool:
        return number in self._by_number

    def add(self, number: int, connection: Connection) -> None:
        """A connection has begun."""
        self._by_number[number] = connection

    def get(self, number: int) -> Connection | None:
        """The connection with this number; None: it has ended."""
        return self._by_number.get(number)

    def pop(self, number: int) -> Connection | None:
        """Remove a connection. `online` is the caller's to change."""
        return self._by_number.pop(number, None)

    def all(self) -> list[tuple[int, Connection]]:
        """All connections; they may end while the caller goes through them."""
        return list(self._by_number.items())

    def deadlines(self) -> Iterator[float]:
        """The deadline of each connection."""
        return (connection.deadline for connection in self._by_number.values())


def key_of(text: str) -> WireGuardKey:
    """A key that a connection has sent. Raises RemoteError if it is malformed."""
    try:
        return WireGuardKey.parse(text)
    except ValueError as error:
        raise RemoteError("not a key", "message.bad") from error
