"""`netctl-mediator serve`: run the server and its relay."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from mediator.shell.bus.busplace import open_bus
from mediator.shell.bus.messagebus import Bus
from mediator.shell.credentials import relay_secret
from mediator.shell.memberstore import MemberStore
from mediator.shell.options import add_bus, add_document, add_listen, add_state, add_store
from mediator.shell.postgresplace import PostgresPlace, is_postgres
from mediator.shell.relaykeeper import keep_relay
from mediator.shell.relaymetrics import add_metrics
from mediator.shell.relaywords import add_limits
from mediator.shell.server import Server
from mediator.shell.stateroles import refuse_apart
from mediator.shell.storeplace import NEW_STORE, begin_elsewhere, open_store
from mediator.shell.storethread import StoreThread
from netctl.model.errors import LocalError
from netctl.system import logs
from netctl.system.tasks import Tasks

GC_AFTER = 20_000
"""New objects between collections. A login leaves some hundred, all without cycles: Python's 700 had the collector look
at the same connections again and again.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_state(parser)
    add_document(parser)
    add_listen(parser)
    parser.add_argument(
        "--stun-also",
        metavar="ADDRESS",
        default="",
        help="a second IPv4 address of this host: members then learn whether their NAT maps and filters by address",
    )
    parser.add_argument("--no-relay", action="store_true", help="the relay is run elsewhere")
    parser.add_argument(
        "--relay-state",
        metavar="DIR",
        type=Path,
        help="the directory of a relay that runs as another user: what it needs is put there (with --no-relay)",
    )
    parser.add_argument(
        NEW_STORE,
        action="store_true",
        help="begin without the store that this state had: its invites, guests, revocations and leases are lost",
    )
    add_store(parser)
    add_bus(parser)
    parser.add_argument(
        "--standby",
        action="store_true",
        default=os.environ.get("NETCTL_MEDIATOR_STANDBY", "") == "1",
        help="where another mediator works with the store in PostgreSQL: wait, and take over when it is gone",
    )
    parser.add_argument(
        "--cluster",
        action="store_true",
        default=os.environ.get("NETCTL_MEDIATOR_CLUSTER", "") == "1",
        help="other mediators that say so too work with the store in PostgreSQL at the same time",
    )
    parser.add_argument(
        "--metrics", metavar="HOST:PORT", help="serve /metrics for Prometheus, /healthz and /readyz there"
    )
    add_metrics(parser, "--relay-metrics")
    add_limits(parser)
    logs.add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    logs.set_up(arguments)
    if arguments.relay_state is not None and not arguments.no_relay:
        raise LocalError("--relay-state is for a relay that runs on its own: give --no-relay too")
    if arguments.relay_metrics is not None and arguments.no_relay:
        raise LocalError(
            "--relay-metrics is for the relay that `serve` starts: give its own command --metrics"
        )
    refuse_apart(arguments.state)
    secret = relay_secret(arguments.state)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # one file per member
    server = Server(
        document=arguments.document,
        state=arguments.state,
        listen=arguments.listen,
        secret=secret,
        stun_also=arguments.stun_also,
        relay_state=arguments.relay_state,
        store=_store(arguments),
        metrics=arguments.metrics,
        bus=_bus(arguments),
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(server, arguments))
    return 0


def _store(arguments: argparse.Namespace) -> MemberStore:
    """The store that the options name. Raises LocalError."""
    state: Path = arguments.state
    if arguments.standby and not arguments.store:
        raise LocalError(
            "--standby waits for a store in PostgreSQL that several mediators reach: give --store too"
        )
    if arguments.cluster and not arguments.store:
        raise LocalError(
            "--cluster is for a store in PostgreSQL that several mediators share: give --store too"
        )
    if arguments.cluster and arguments.standby:
        raise LocalError(
            "--standby waits for the other mediator's end, --cluster works beside it: give one of them"
        )
    if not arguments.store:
        return StoreThread(open_store(state, new=arguments.new_store))
    if not is_postgres(arguments.store):
        raise LocalError(f"'{arguments.store}' is no store: say postgresql://USER@HOST[,HOST]/DATABASE")
    if arguments.new_store:
        raise LocalError(
            f"{NEW_STORE} is for a store in the state directory: give PostgreSQL an empty database"
        )
    place = PostgresPlace.parse(arguments.store, arguments.store_password_file)
    from mediator.shell.postgresstore import PostgresStore

    begin_elsewhere(state, place.name)
    return PostgresStore(place, standby=arguments.standby, shared=arguments.cluster)


def _bus(arguments: argparse.Namespace) -> Bus | None:
    """Raises LocalError."""
    if not arguments.bus:
        return None
    if not arguments.cluster:
        raise LocalError("--bus joins mediators that work on one store at the same time: give --cluster too")
    return open_bus(arguments.bus, arguments.bus_password_file)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop if it is installed, which needs a quarter of the memory per connection; else None."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _run(server: Server, arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await server.start(await server.load())
        gc.freeze()  # the program and its document stay: no collection visits them while members come
        gc.set_threshold(GC_AFTER)
    except asyncio.CancelledError:
        await server.close()
        return
    except Exception:
        await server.close()
        raise
    tasks = Tasks(server.guard)
    relay = None if arguments.no_relay else tasks.keep("the relay's keeper", lambda: keep_relay(arguments))
    try:
        await server.run()
    except asyncio.CancelledError:
        pass
    finally:
        if relay is not None:
            relay.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await relay
