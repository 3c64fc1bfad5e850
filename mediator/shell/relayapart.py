"""A relay on another machine than its mediators: it has its own identity and the document, and nothing of theirs.

The document names the mediators whose grants are good. A change of it is taken without a restart, except for the
relay's own ports. It is read in a thread: a large one takes a second, and packets do not wait for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from mediator.shell.credentials import Identity
from mediator.shell.relayserver import RelayServer
from mediator.shell.stunserver import StunServer
from mediator.shell.watched import WatchedDocument
from netctl.model.document import Document, Mediator
from netctl.model.errors import LocalError, RemoteError

_LOG = logging.getLogger("mediator.relay")

LOOK_S = 1.0
"""Between looks at the document's file."""
EXPIRED_S = 60.0
"""Between lines about grants that are over by this relay's clock."""

Answer = tuple[Document, Mediator] | str | None


def trusted_secrets(identity: Identity, document: Document) -> list[bytes]:
    """A secret for each identity of the document's mediators. Raises LocalError where there is none."""
    found: dict[bytes, None] = {}
    for mediator in document.mediators:
        if mediator.relay_only:
            continue
        for pin in mediator.identity:
            try:
                found[identity.agree_with(pin)] = None
            except RemoteError as error:
                _LOG.warning(f"grants of {mediator.host}:{mediator.port} are refused: {error}")
    if not found:
        raise LocalError(
            "the document names no mediator whose grants this relay could check: `role: relay` needs one beside it"
        )
    return list(found)


class FollowedDocument:
    """Keeps the table's trust at what the document says."""

    def __init__(
        self, identity: Identity, watched: WatchedDocument, own: Mediator, relay: RelayServer
    ) -> None:
        self._identity, self._watched, self._own, self._relay = identity, watched, own, relay
        self._thread = ThreadPoolExecutor(1, "document")
        self._looking: Future[Answer] | None = None
        self._look_at = 0.0
        self._expired = 0
        self._expired_at = float("-inf")

    def look(self, now: float) -> None:
        """Beside the relay's work: take what the thread has found, and send it to look again."""
        self._say_expired(now)
        if self._looking is not None:
            if not self._looking.done():
                return
            looking, self._looking = self._looking, None
            self._take(looking.result())
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._looking = self._thread.submit(self._read)

    def close(self) -> None:
        """End the thread, after what it does."""
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
            try:
                if not own.relay_only:
                    raise LocalError("this server is no `role: relay` there any more")
                self._relay.table.trust(trusted_secrets(self._identity, document))
            except LocalError as error:
                _LOG.warning(self._watched.refuse(f" {error}"))
                return
            _LOG.info("the document has changed, and is in force")
            if _listens(own) != _listens(self._own):
                _LOG.warning("the document gives this relay other ports: they count when it is started again")

    def _say_expired(self, now: float) -> None:
        expired = self._relay.table.expired
        if expired != self._expired and now - self._expired_at >= EXPIRED_S:
            self._expired, self._expired_at = expired, now
            _LOG.warning(
                "grants of a mediator are over by this machine's clock: is one of the two wrong by hours?"
            )


def _listens(own: Mediator) -> tuple[object, ...]:
    return own.relay_ports, own.port, own.tls, own.stun


@contextmanager
def follow_document(
    identity: Identity, watched: WatchedDocument, document: Document, own: Mediator, relay: RelayServer
) -> Iterator[None]:
    """Trust the document's mediators, now and as it changes. Raises LocalError."""
    relay.table.trust(trusted_secrets(identity, document))
    following = FollowedDocument(identity, watched, own, relay)
    relay.watch(following.look)
    try:
        yield
    finally:
        following.close()


@contextmanager
def answer_stun(relay: RelayServer, address: str, ports: Sequence[int]) -> Iterator[None]:
    """Answer STUN in the relay's loop: members learn from it how far the relay is.

    A port that cannot be had is one line for the operator: packets are relayed all the same.
    """
    forget: Callable[[int], object] = relay.forget
    servers: list[StunServer] = []
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
