"""`netctl-mediator relay`: the relay alone, beside its mediator or on a machine of its own."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import secrets
import signal
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from mediator.shell.credentials import IDENTITY_FILE, Identity, relay_secret, server_context
from mediator.shell.options import add_document, add_listen, add_state
from mediator.shell.pairstore import PairReader
from mediator.shell.relay_tls import open_listeners
from mediator.shell.relayapart import answer_stun, follow_document, trusted_secrets
from mediator.shell.relaylock import only_relay
from mediator.shell.relaymetrics import add_metrics, serve_pages
from mediator.shell.relayplace import Handed, ToldPairs, handed_over
from mediator.shell.relayserver import RelayServer, run_relay
from mediator.shell.relaystatus import tell_status
from mediator.shell.relaywords import add_limits, limits_of
from mediator.shell.steadyclock import SteadyClock
from mediator.shell.store import STORE_FILE
from mediator.shell.watched import WatchedDocument
from netctl.model.document import Document, Mediator
from netctl.model.keys import IdentityKey
from netctl.system import logs
from netctl.wire.relayframe import RELAY_ALPN

_LOG = logging.getLogger("mediator.relay")

Beside = Callable[[RelayServer], AbstractContextManager[object]]


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_state(parser)
    add_document(parser)
    add_listen(parser)
    add_metrics(parser, "--metrics")
    add_limits(parser)
    logs.add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    logs.set_up(arguments)
    if not (arguments.state / IDENTITY_FILE).exists():
        _run_handed(arguments)
        return 0
    identity = Identity.load(arguments.state)
    watched, document, own = _load(arguments, identity.public)
    if own.relay_only:
        _run_apart(arguments, identity, watched, document, own)
    else:
        _run_beside(arguments, identity, own)
    return 0


def _load(arguments: argparse.Namespace, identity: IdentityKey) -> tuple[WatchedDocument, Document, Mediator]:
    watched = WatchedDocument(arguments.document, identity, arguments.state)
    document, own = watched.load()
    if watched.refusal is not None:
        _LOG.warning(watched.said_at_start())
    return watched, document, own


def _run_handed(arguments: argparse.Namespace) -> None:
    """Beside a mediator of another user, with what it has put into the state directory."""
    handed, secret = handed_over(arguments.state)
    _, _, own = _load(arguments, handed.identity)

    def start_anew() -> None:
        _LOG.warning("the mediator has given this relay another key: it starts anew")
        os.kill(os.getpid(), signal.SIGTERM)

    @contextlib.contextmanager
    def beside(relay: RelayServer) -> Iterator[None]:
        relay.watch(Handed(arguments.state, relay.pairs, start_anew).look)
        yield

    context = server_context(handed.pem, RELAY_ALPN)
    _relay(arguments, own, secret, context, SteadyClock(arguments.state).unix, beside)


def _run_beside(arguments: argparse.Namespace, identity: Identity, own: Mediator) -> None:
    """Beside its mediator, in the mediator's state directory."""

    @contextlib.contextmanager
    def beside(relay: RelayServer) -> Iterator[None]:
        with contextlib.closing(PairReader(arguments.state / STORE_FILE)) as reader:
            told = ToldPairs(arguments.state, relay.pairs)  # by a mediator whose store is in PostgreSQL
            relay.watch(lambda now: None if told.look(now) else reader.tell(relay.pairs, now))
            yield

    secret, context = relay_secret(arguments.state), identity.server_context(RELAY_ALPN)
    _relay(arguments, own, secret, context, SteadyClock(arguments.state).unix, beside)


def _run_apart(
    arguments: argparse.Namespace,
    identity: Identity,
    watched: WatchedDocument,
    document: Document,
    own: Mediator,
) -> None:
    """On a machine of its own: no mediator passes connections on, or has the same clock."""
    if (said := watched.keep()) is not None:
        _LOG.warning(said)
    trusted = trusted_secrets(identity, document)

    @contextlib.contextmanager
    def beside(relay: RelayServer) -> Iterator[None]:
        with (
            follow_document(identity, watched, document, own, relay),
            answer_stun(relay, arguments.listen, own.stun),
        ):
            _LOG.info(f"relaying for {len(trusted)} mediators' members at UDP {_range(own)}")
            yield

    ports = sorted({own.port, *own.tls})
    _relay(
        arguments, own, trusted[0], identity.server_context(RELAY_ALPN), time.time, beside, tls_ports=ports
    )


def _range(own: Mediator) -> str:
    return f"{own.relay_ports[0]}-{own.relay_ports[1]}"


def _relay(
    arguments: argparse.Namespace,
    own: Mediator,
    secret: bytes,
    context: ssl.SSLContext,
    unix: Callable[[], float],
    beside: Beside,
    *,
    tls_ports: Sequence[int] = (),
) -> None:
    """`tls_ports`: where it listens itself, because no mediator beside it passes connections on."""

    @contextlib.contextmanager
    def also(relay: RelayServer) -> Iterator[None]:
        with (
            open_listeners(relay, context, arguments.state, arguments.listen, tls_ports) as listener,
            tell_status(relay, arguments.state, listener),
            serve_pages(arguments.metrics, arguments.state),
            beside(relay),
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
            also=also,
        )
