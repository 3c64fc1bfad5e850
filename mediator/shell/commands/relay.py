"""`netctl-mediator relay`: run only the relay."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import secrets
import signal
from collections.abc import Iterator

from mediator.shell.credentials import IDENTITY_FILE, Identity, relay_secret, server_context
from mediator.shell.options import add_document, add_listen, add_state
from mediator.shell.pairstore import PairReader
from mediator.shell.relay_tls import open_listeners
from mediator.shell.relaylock import only_relay
from mediator.shell.relayplace import Handed, ToldPairs, handed_over
from mediator.shell.relayserver import RelayServer, run_relay
from mediator.shell.relaystatus import tell_status
from mediator.shell.relaywords import add_limits, limits_of
from mediator.shell.steadyclock import SteadyClock
from mediator.shell.store import STORE_FILE
from mediator.shell.watched import WatchedDocument
from netctl.system import logs
from netctl.wire.relayframe import RELAY_ALPN

_LOG = logging.getLogger("mediator.relay")


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_state(parser)
    add_document(parser)
    add_listen(parser)
    add_limits(parser)
    logs.add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    logs.set_up(arguments)
    own = (arguments.state / IDENTITY_FILE).exists()
    if own:  # the mediator's own state directory, or that of a relay on a machine without a mediator
        identity = Identity.load(arguments.state)
        whose, context = identity.public, identity.server_context(RELAY_ALPN)
        secret = relay_secret(arguments.state)
    else:
        handed, secret = handed_over(arguments.state)
        whose, context = handed.identity, server_context(handed.pem, RELAY_ALPN)
    watched = WatchedDocument(arguments.document, whose, arguments.state)
    _, mediator = watched.load()
    if watched.refusal is not None:
        _LOG.warning(watched.said_at_start())
    # A mediator on this machine passes connections on; without one, the relay listens itself.
    ports = sorted({mediator.port, *mediator.tls}) if mediator.relay_only else []

    def start_anew() -> None:
        _LOG.warning("the mediator has given this relay another key: it starts anew")
        os.kill(os.getpid(), signal.SIGTERM)

    @contextlib.contextmanager
    def beside(relay: RelayServer) -> Iterator[None]:
        with (
            contextlib.closing(PairReader(arguments.state / STORE_FILE)) as reader,
            open_listeners(relay, context, arguments.state, arguments.listen, ports),
            tell_status(relay, arguments.state),
        ):
            if own:
                told = ToldPairs(arguments.state, relay.pairs)  # for a store in PostgreSQL
                relay.watch(lambda now: None if told.look(now) else reader.tell(relay.pairs, now))
            else:
                relay.watch(Handed(arguments.state, relay.pairs, start_anew).look)
            yield

    cookie_secret = secrets.token_bytes(32)
    with only_relay(arguments.state):
        run_relay(
            arguments.listen,
            mediator.relay_ports,
            secret,
            cookie_secret,
            limits=limits_of(arguments),
            unix=SteadyClock(arguments.state).unix,
            also=beside,
        )
    return 0
