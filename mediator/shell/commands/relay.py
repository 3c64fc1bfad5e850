"""`netctl-mediator relay`: the relay alone, beside its mediator or on a machine of its own."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import secrets
import signal
from collections.abc import Callable, Iterator, Sized
from contextlib import AbstractContextManager
from typing import Any

from mediator.shell.credentials import IDENTITY_FILE, Identity, relay_secret, server_context
from mediator.shell.options import add_document, add_listen, add_state
from mediator.shell.pairstore import PairReader
from mediator.shell.relay_tls import accept_connections, take_connections
from mediator.shell.relayapart import GrantClock, answer_stun, follow_document, suits, trusted_secrets
from mediator.shell.relaylock import only_relay
from mediator.shell.relaymetrics import add_metrics, serve_pages
from mediator.shell.relayplace import Handed, ToldPairs, UnheldFile, handed_over
from mediator.shell.relayregister import TOLD_FILE, Now, Told, register
from mediator.shell.relayserver import RelayServer, run_relay
from mediator.shell.relaystatus import ask_relay, tell_status
from mediator.shell.relaywords import add_limits, limits_of
from mediator.shell.stateroles import is_apart
from mediator.shell.steadyclock import SteadyClock
from mediator.shell.store import STORE_FILE
from mediator.shell.watched import WatchedDocument
from netctl.model.document import Document, Mediator
from netctl.model.errors import LocalError
from netctl.model.keys import IdentityKey
from netctl.system import logs
from netctl.wire.relayframe import RELAY_ALPN

_LOG = logging.getLogger("mediator.relay")

MAX_PLACE = 63
Beside = Callable[[RelayServer], AbstractContextManager[Sized]]


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_state(parser)
    add_document(parser)
    add_listen(parser)
    add_metrics(parser, "--metrics")
    add_limits(parser)
    parser.add_argument(
        "--place",
        metavar="WORD",
        default="",
        help="of a relay apart: where it is, as `netctl-mediator status` shows it at the mediators",
    )
    logs.add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    logs.set_up(arguments)
    if not (arguments.state / IDENTITY_FILE).exists():
        if is_apart(arguments.state):
            raise LocalError(
                f"the identity of this relay is not in {arguments.state} any more: restore {IDENTITY_FILE}, or make a "
                "new one with `netctl-mediator init --relay`, and put it into the document in place of the old one"
            )
        _run_handed(arguments)
        return 0
    identity = Identity.load(arguments.state)
    watched, document, own = _load(arguments, identity.public, suits(identity, arguments.state))
    if own.relay_only:
        _run_apart(arguments, identity, watched, document, own)
    else:
        _run_beside(arguments, identity, own)
    return 0


def _load(
    arguments: argparse.Namespace,
    identity: IdentityKey,
    check: Callable[[Document, Mediator], None] = lambda document, own: None,
) -> tuple[WatchedDocument, Document, Mediator]:
    watched = WatchedDocument(arguments.document, identity, arguments.state, check)
    document, own = watched.load()
    if watched.refusal is not None:
        _LOG.warning(watched.said_at_start())
    return watched, document, own


def _run_handed(arguments: argparse.Namespace) -> None:
    """Beside a mediator of another user, with what the mediator has put into the state directory."""
    handed, secret = handed_over(arguments.state)
    _, _, own = _load(arguments, handed.identity)
    clock = SteadyClock(arguments.state)

    def start_anew() -> None:
        _LOG.warning("the mediator has given this relay another key: it starts anew")
        os.kill(os.getpid(), signal.SIGTERM)

    @contextlib.contextmanager
    def beside(relay: RelayServer) -> Iterator[Sized]:
        relay.watch(GrantClock(clock, relay.table, shared=True).look)
        relay.watch(Handed(arguments.state, relay.pairs, start_anew).look)
        relay.watch(UnheldFile(arguments.state, relay).look)
        with take_connections(relay, server_context(handed.pem, RELAY_ALPN), arguments.state) as links:
            yield links

    _relay(arguments, own, secret, clock.unix, beside)


def _run_beside(arguments: argparse.Namespace, identity: Identity, own: Mediator) -> None:
    """Beside its mediator, in the mediator's state directory."""
    clock = SteadyClock(arguments.state)

    @contextlib.contextmanager
    def beside(relay: RelayServer) -> Iterator[Sized]:
        with (
            contextlib.closing(PairReader(arguments.state / STORE_FILE)) as reader,
            take_connections(relay, identity.server_context(RELAY_ALPN), arguments.state) as links,
        ):
            relay.watch(GrantClock(clock, relay.table, shared=True).look)
            relay.watch(UnheldFile(arguments.state, relay).look)
            told = ToldPairs(arguments.state, relay.pairs)  # by a mediator whose store is in PostgreSQL
            relay.watch(lambda now: None if told.look(now) else reader.tell(relay.pairs, now))
            yield links

    _relay(arguments, own, relay_secret(arguments.state), clock.unix, beside)


def _run_apart(
    arguments: argparse.Namespace,
    identity: Identity,
    watched: WatchedDocument,
    document: Document,
    own: Mediator,
) -> None:
    """On a machine of its own: no mediator passes connections on, or has the same clock.

    Members whose UDP is blocked reach it at the TCP ports that the document gives it (`tls`). It registers with the
    mediators.
    """
    if len(arguments.place) > MAX_PLACE:
        raise LocalError(f"--place takes a word of at most {MAX_PLACE} characters")
    if (said := watched.keep()) is not None:
        _LOG.warning(said)
    trusted, _ = trusted_secrets(identity, document)
    clock = SteadyClock(arguments.state)

    @contextlib.contextmanager
    def beside(relay: RelayServer) -> Iterator[Sized]:
        relay.watch(GrantClock(clock, relay.table).look)
        pairs = ToldPairs(arguments.state, relay.pairs, TOLD_FILE)

        def read_pairs(now: float) -> None:
            pairs.look(now)

        relay.watch(read_pairs)
        told = Told(arguments.state / TOLD_FILE, own.relay_ports)
        with (
            register(
                identity, told, lambda: load_of(ask_relay(arguments.state)), arguments.place
            ) as registered,
            follow_document(identity, watched, document, own, relay, registered.follow),
            answer_stun(relay, arguments.listen, own.stun),
            accept_connections(
                relay, identity.server_context(RELAY_ALPN), arguments.listen, own.tls
            ) as links,
        ):
            yield links

    _relay(arguments, own, trusted[0], clock.unix, beside, f" for {len(trusted)} mediators' members")


def load_of(status: dict[str, Any] | None) -> Now | None:
    """What a relay tells the mediators of itself, from its status."""
    if status is None:
        return None
    unheld = [(first, last) for first, last in status["unheld"]]
    return Now(status["bindings"], status["members"], status["counters"]["forwarded_bytes"], unheld)


def _relay(
    arguments: argparse.Namespace,
    own: Mediator,
    secret: bytes,
    unix: Callable[[], float],
    beside: Beside,
    whose: str = "",
) -> None:
    """`beside`: what else the relay's loop does; gives the connections over TLS. `whose`: for the log."""
    first, last = own.relay_ports

    @contextlib.contextmanager
    def also(relay: RelayServer) -> Iterator[None]:
        with (
            beside(relay) as links,
            tell_status(relay, arguments.state, links),
            serve_pages(arguments.metrics, arguments.state),
        ):
            yield

    with only_relay(arguments.state):
        run_relay(
            arguments.listen,
            own.relay_ports,
            secret,
            secrets.token_bytes(32),
            limits=limits_of(arguments),
            unix=unix,
            ready=lambda: _LOG.info(f"relaying{whose} at UDP {first}-{last}"),
            also=also,
        )
