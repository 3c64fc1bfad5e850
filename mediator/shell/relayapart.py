"""A relay on another machine than its mediators: it has its own identity and the document, and nothing of theirs.

The document names the mediators whose grants are good. A change of the document takes effect without a restart, except
for the relay's own ports. A thread reads the document: a large one takes a second, and packets do not wait for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from mediator.core.relay_table import CLOCK_TOLERANCE_S, MAX_SECRETS, RelayTable
from mediator.core.relayload import RelayLoad
from mediator.shell.credentials import Identity
from mediator.shell.relayserver import RelayServer
from mediator.shell.relaywords import CLOCK_NOTICE_S
from mediator.shell.stateroles import refuse_alone, refuse_mediators
from mediator.shell.steadyclock import SteadyClock
from mediator.shell.stunserver import StunServer
from mediator.shell.watched import WatchedDocument
from netctl.model.document import Document, Mediator
from netctl.model.errors import LocalError, RemoteError

_LOG = logging.getLogger("mediator.relay")

LOOK_S = 1.0
"""Interval of looks at the document's file."""
CLOCK_LOOK_S = 60.0
"""Least interval of looks at the clock, and of lines in the log about it."""
CLOCK_STEP_S = 60.0
"""A wall clock that differs from the reading by more was set meanwhile."""

Answer = tuple[Document, Mediator] | str | None


def trusted_secrets(identity: Identity, document: Document) -> tuple[list[bytes], list[str]]:
    """A secret for each identity of the document's mediators, and what to say of those that have none.

    Raises LocalError if there is no secret at all.
    """
    found: dict[bytes, None] = {}
    said = []
    for mediator in document.mediators:
        if mediator.relay_only:
            continue
        for pin in mediator.identity:
            try:
                found[identity.agree_with(pin)] = None
            except RemoteError as error:
                said.append(f"grants of {mediator.host}:{mediator.port} are refused: {error}")
    if not found:
        raise LocalError(
            "the document names no mediator whose grants this relay could check: `role: relay` needs one beside it"
        )
    if len(found) > MAX_SECRETS:
        said.append(
            f"the document names {len(found)} identities of mediators, and a relay checks the grants of "
            f"{MAX_SECRETS} of them: grants of the last {len(found) - MAX_SECRETS} are refused"
        )
    return list(found), said


def unusable(identity: Identity, own: Mediator, document: Document) -> list[str]:
    """What in the relay's own entry of the document keeps members from using it, for people."""
    said = []
    if own.identity[0] != identity.public:
        said.append(
            f"the first identity of this relay's entry in the document is {own.identity[0]}, another relay's: members "
            f"get grants for that one, so no grant is good here; put {identity.public} first"
        )
    room = own.relay_ports[1] - own.relay_ports[0] + 1
    for mediator in document.mediators:
        wanted = mediator.relay_ports[1] - mediator.relay_ports[0] + 1
        if not mediator.relay_only and wanted > room:
            said.append(
                f"this relay has {room} relayPorts, and {mediator.host}:{mediator.port} has {wanted}: members whose "
                f"port there is beyond the first {room} do not use this relay"
            )
    return said


def suits(identity: Identity, state: Path) -> Callable[[Document, Mediator], None]:
    """A check of a document before it is in force: raises LocalError if a relay with this state cannot work by it."""

    def check(document: Document, own: Mediator) -> None:
        if own.relay_only:
            refuse_mediators(state)
            trusted_secrets(identity, document)
        else:
            refuse_alone(state)

    return check


class FollowedDocument:
    """Keeps the table's trust at what the document says."""

    def __init__(
        self,
        identity: Identity,
        watched: WatchedDocument,
        own: Mediator,
        relay: RelayServer,
        took: Callable[[Document], None] = lambda _: None,
    ) -> None:
        """`watched`: with the check of `suits`, so that it hands over good documents alone."""
        self._identity, self._watched, self._own, self._relay = identity, watched, own, relay
        self._took = took
        self._thread = ThreadPoolExecutor(1, "document")
        self._looking: Future[Answer] | None = None
        self._look_at = 0.0

    def look(self, now: float) -> None:
        """Beside the relay's work: take what the thread has found, and send the thread to look again."""
        if self._looking is not None:
            if not self._looking.done():
                return
            looking, self._looking = self._looking, None
            self._take(looking.result())
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._looking = self._thread.submit(self._read)

    def close(self) -> None:
        """End the thread, after the work that it does now."""
        self._thread.shutdown()

    def _read(self) -> Answer:
        found = self._watched.look()
        if isinstance(found, tuple) and (said := self._watched.keep()) is not None:
            _LOG.warning(said)
        return found

    def _take(self, found: Answer) -> None:
        if isinstance(found, str):
            _LOG.warning(found)
        elif found is not None:
            document, own = found
            _trust(self._identity, document, own, self._relay.table)
            self._took(document)
            _LOG.info("the document has changed, and is in force")
            if _listens(own) != _listens(self._own):
                _LOG.warning("the document gives this relay other ports: they count when it is started again")


def _trust(identity: Identity, document: Document, own: Mediator, table: RelayTable) -> None:
    secrets, said = trusted_secrets(identity, document)
    table.trust(secrets)
    for line in (*said, *unusable(identity, own, document)):
        _LOG.warning(line)


def _listens(own: Mediator) -> tuple[object, ...]:
    return own.relay_ports, own.stun, own.tls


class GrantClock:
    """Watches what mediators' grants show about this machine's clock.

    The relay counts time from one reading of the wall clock, so that a step of that clock ends no binding. When grants
    show that the reading is wrong, the wall clock is read again: it may have been set meanwhile. If it agrees with the
    reading, the operator is told.
    """

    def __init__(self, clock: SteadyClock, table: RelayTable, *, shared: bool = False) -> None:
        """`shared`: a mediator beside the relay counts from the same reading. It is not read again then, or that
        mediator's own grants might be over; the operator is told what others' grants show.
        """
        self._clock, self._table, self._shared = clock, table, shared
        self._then = ", then restart that machine" if shared else ""
        self._expired = self._ahead = 0
        self._look_at = float("-inf")
        self._behind_said = False

    def look(self, now: float) -> None:
        """Beside the relay's work; `now`: monotonic seconds."""
        table = self._table
        expired, ahead = table.expired != self._expired, table.ahead != self._ahead
        if table.clock_behind_s <= CLOCK_NOTICE_S:
            self._behind_said = False
        behind = table.clock_behind_s > CLOCK_NOTICE_S and not self._behind_said
        if not (expired or ahead or behind) or now < self._look_at:
            return
        self._look_at = now + CLOCK_LOOK_S
        self._expired, self._ahead = table.expired, table.ahead
        behind_s = table.clock_behind_s
        changed = 0.0 if self._shared else self._clock.read_again()
        if abs(changed) > CLOCK_STEP_S:
            table.clock_was_set()
            self._behind_said = False
            _LOG.warning(
                f"this machine's clock was set {_ahead_or_back(changed)}: grants are checked by the new time"
            )
            return
        if ahead:
            _LOG.warning(
                f"grants of a mediator are refused: by them this machine's clock is at least {_span(behind_s)} "
                f"behind, and {_span(CLOCK_TOLERANCE_S)} is the most that a relay works with; set the clock here, or "
                f"the mediator's if it is ahead{self._then}"
            )
        elif behind:
            _LOG.warning(
                f"this machine's clock is at least {_span(behind_s)} behind a mediator's: set the one that is wrong"
                + self._then
            )
        elif expired and table.overdue and not self._shared:
            _LOG.warning(
                "grants of a mediator are over by this machine's clock: is one of the two wrong by hours?"
            )
        self._behind_said = behind_s > CLOCK_NOTICE_S


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.0f} minutes"


def _ahead_or_back(seconds: float) -> str:
    return f"{_span(abs(seconds))} {'ahead' if seconds > 0 else 'back'}"


@contextmanager
def follow_document(
    identity: Identity,
    watched: WatchedDocument,
    document: Document,
    own: Mediator,
    relay: RelayServer,
    took: Callable[[Document], None] = lambda _: None,
) -> Iterator[None]:
    """Trust the document's mediators, now and as the document changes. Raises LocalError.

    `took` is called with each document that is in force.
    """
    _trust(identity, document, own, relay.table)
    took(document)
    following = FollowedDocument(identity, watched, own, relay, took)
    relay.watch(following.look)
    try:
        yield
    finally:
        following.close()


@contextmanager
def answer_stun(
    relay: RelayServer, address: str, ports: Sequence[int], used_s: Callable[[], float] = time.thread_time
) -> Iterator[None]:
    """Answer STUN in the relay's loop: members learn from it how far the relay is, and how loaded.

    A port that another program has is one line for the operator: packets are relayed all the same. `used_s`: processor
    time of the relay's thread, seconds.
    """
    forget: Callable[[int], object] = relay.forget
    servers: list[StunServer] = []
    load = RelayLoad()

    def look(now: float) -> None:
        load.look(now, used_s(), len(relay.table))
        for server in servers:
            server.load = load.step

    relay.watch(look)
    for port in ports:
        try:
            server = StunServer(address, port, guard=relay.guard)
        except OSError as error:
            _LOG.warning(f"UDP port {port} cannot be had for STUN: {error.strerror or error}")
            continue
        server.start_in(relay.listen, forget)
        servers.append(server)
    for one, other in zip(servers, [*servers[1:], *servers[:1]], strict=True):
        one.sibling = other if other is not one else None
    try:
        yield
    finally:
        for server in servers:
            server.close()
