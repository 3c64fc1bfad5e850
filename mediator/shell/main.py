"""`netctl-mediator`: init, serve, relay, check, status, bans, unban, backup, restore."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import json
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mediator.shell import setup
from mediator.shell.relaywords import add_limits, limits_of, say_relay
from netctl import __version__
from netctl.model.errors import LocalError, NetctlError
from netctl.system.ourselves import environment, module
from netctl.system.tasks import Tasks

if TYPE_CHECKING:
    from mediator.shell.server import Server
    from netctl.model.document import Document, Mediator
    from netctl.model.keys import IdentityKey

DEFAULT_STATE = "/var/lib/netctl-mediator"
DEFAULT_DOCUMENT = "/etc/netctl/networks.yaml"
ANY = "::"
"""Both families, where the host has IPv6."""
EVERYWHERE = 443
"""The TCP port that passes where little else does."""
RESTART_S = 1.0
"""A relay that dies is started again after this, and not faster."""


def _common(parser: argparse.ArgumentParser, *, document: bool = True, listen: bool = False) -> None:
    state = Path(os.environ.get("NETCTL_MEDIATOR_STATE", DEFAULT_STATE))
    parser.add_argument("--state", metavar="DIR", type=Path, default=state, help=f"default {DEFAULT_STATE}")
    if document:
        path = Path(os.environ.get("NETCTL_CONFIG", DEFAULT_DOCUMENT))
        text = f"networks.yaml (default {DEFAULT_DOCUMENT})"
        parser.add_argument("--document", metavar="FILE", type=Path, default=path, help=text)
    if listen:
        parser.add_argument("--listen", metavar="ADDRESS", default=ANY, help="default: all, IPv4 and IPv6")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="netctl-mediator",
        description="Introduces members to each other. Can read none of their traffic.",
    )
    parser.add_argument("--version", action="version", version=f"netctl-mediator {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    init = commands.add_parser("init", help="make this server's identity and print what networks.yaml needs")
    _common(init, document=False)
    init.add_argument(
        "--host", default="mediator.example.net", help="the name or address members reach it at"
    )
    init.add_argument("--port", type=int, default=8443, help="the TCP port (default 8443)")
    setup.add(commands, _common)
    serve = commands.add_parser("serve", help="run the server and its relay")
    _common(serve, listen=True)
    serve.add_argument(
        "--stun-also",
        metavar="ADDRESS",
        default="",
        help="a second IPv4 address of this host: members then learn whether their NAT maps and filters by address",
    )
    serve.add_argument("--no-relay", action="store_true", help="the relay is run elsewhere")
    serve.add_argument(
        "--relay-state",
        metavar="DIR",
        type=Path,
        help="the directory of a relay that runs as another user: what it needs is put there (with --no-relay)",
    )
    add_limits(serve)
    relay = commands.add_parser("relay", help="run the relay alone (serve starts one by itself)")
    _common(relay, listen=True)
    add_limits(relay)
    check = commands.add_parser(
        "check", help="look whether the store, the identity and the document are sound"
    )
    _common(check)
    status = commands.add_parser(
        "status", help="what the server that runs here is doing; 1 when it refuses something"
    )
    _common(status, document=False)
    status.add_argument("-o", "--output", choices=["text", "json"], default="text", help="default: text")
    bans = commands.add_parser("bans", help="addresses that may not connect now, and for how long")
    _common(bans, document=False)
    bans.add_argument("-o", "--output", choices=["text", "json"], default="text", help="default: text")
    unban = commands.add_parser("unban", help="forget what is held against an address or a member")
    _common(unban, document=False)
    unban.add_argument("source", metavar="ADDRESS|MEMBER", help="as `bans` prints it")
    backup = commands.add_parser("backup", help="copy the state into one file; the server may run meanwhile")
    restore = commands.add_parser("restore", help="put a backup in the place of the state")
    for command in (backup, restore):
        _common(command, document=False)
        command.add_argument(
            "file", metavar="FILE", type=Path, help="as secret as the state: it holds the identity"
        )
        command.add_argument("--force", action="store_true", help="replace what is there")
    return parser


def _init(arguments: argparse.Namespace) -> int:
    from mediator.shell.keys import RELAY_SECRET_FILE, Identity, relay_secret

    secret = arguments.state / RELAY_SECRET_FILE
    had = secret.exists()
    relay_secret(arguments.state)
    try:
        identity = Identity.create(arguments.state)  # the last: what failed before it can be tried again
    except LocalError:
        if not had:
            secret.unlink(missing_ok=True)
        raise
    print("mediators:")
    print(f"  - url: netctl://{arguments.host}:{arguments.port}")
    print(f'    identity: ["{identity.public}"]')
    also = tls = ""
    if arguments.port != EVERYWHERE:
        if _taken(EVERYWHERE):
            print(f"Port {EVERYWHERE} is another server's here: the mediator goes without.", file=sys.stderr)
        else:
            print(f"    tls: [{EVERYWHERE}]")
            also, tls = f" and {EVERYWHERE}", f"?tls={EVERYWHERE}"
    url = f"netctl://{arguments.host}:{arguments.port}{tls}"
    print("Put these lines into networks.yaml, or make a first one on one of your hosts:", file=sys.stderr)
    print(f"  sudo netctl init --mediator '{url}#{identity.public}'", file=sys.stderr)
    print("Open in this server's firewall:", file=sys.stderr)
    print(f"  TCP {arguments.port}{also}, UDP 3478-3479 (STUN), UDP 40000-40999 (relay)", file=sys.stderr)
    return 0


def _setup(arguments: argparse.Namespace) -> int:
    alone = arguments.port == EVERYWHERE or _taken(EVERYWHERE)
    return setup.setup(arguments, () if alone else (EVERYWHERE,))


def _taken(port: int) -> bool:
    """Whether another program listens on a TCP port of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _serve(arguments: argparse.Namespace) -> int:
    from mediator.shell.keys import relay_secret
    from mediator.shell.server import Server

    if arguments.relay_state is not None and not arguments.no_relay:
        raise LocalError("--relay-state is for a relay that runs on its own: give --no-relay too")
    secret = relay_secret(arguments.state)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # one a member
    server = Server(
        document=arguments.document,
        state=arguments.state,
        listen=arguments.listen,
        secret=secret,
        stun_also=arguments.stun_also,
        relay_state=arguments.relay_state,
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(server, arguments))
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed: four times less memory a connection."""
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
    await server.start(await server.load())
    tasks = Tasks(server.guard)
    relay = None if arguments.no_relay else tasks.keep("the relay's keeper", lambda: _keep_relay(arguments))
    try:
        await server.run()
    except asyncio.CancelledError:
        pass
    finally:
        if relay is not None:
            relay.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await relay


async def _keep_relay(arguments: argparse.Namespace) -> None:
    """Run the relay as a process of its own; start it again when it dies. One that runs already is taken over."""
    from mediator.shell.relaylock import KEPT, running_relay

    command = module("mediator.shell.main", "relay")
    command += ["--document", str(arguments.document), "--state", str(arguments.state)]
    command += ["--listen", arguments.listen]
    command += ["--pair-rate", str(arguments.pair_rate), "--member-rate", str(arguments.member_rate)]
    command += ["--quota", str(arguments.quota)]
    said = 0
    while True:
        found = running_relay(arguments.state)
        if found is not None:  # of a mediator that was killed, or a unit of its own: its tunnels go on
            if found.pid != said:
                said = found.pid
                print(
                    f"the relay that runs (process {said}) goes on with its tunnels",
                    file=sys.stderr,
                    flush=True,
                )
            try:
                await asyncio.sleep(RESTART_S)
            except asyncio.CancelledError:
                if found.kept and running_relay(arguments.state) == found:
                    os.kill(found.pid, signal.SIGTERM)
                raise
            continue
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment(**{KEPT: "1"}))
        try:
            while process.poll() is None:
                await asyncio.sleep(RESTART_S)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        print("the relay ended; starting it again", file=sys.stderr, flush=True)
        await asyncio.sleep(RESTART_S)


def _load_mediator(arguments: argparse.Namespace, identity: IdentityKey) -> tuple[Document, Mediator]:
    from mediator.shell.watched import cannot_read, find_mediator
    from netctl.config import load_document

    try:
        text = arguments.document.read_text()
    except OSError as error:
        raise cannot_read(arguments.document, error) from error
    document = load_document(text, str(arguments.document)).document
    return document, find_mediator(document, identity)


def _relay(arguments: argparse.Namespace) -> int:
    from mediator.shell.keys import IDENTITY_FILE, Identity, relay_secret, server_context
    from mediator.shell.pairstore import PairReader
    from mediator.shell.relay import RelayServer, run_relay
    from mediator.shell.relay_tls import open_doors
    from mediator.shell.relaylock import only_relay
    from mediator.shell.relayplace import Handed, handed_over
    from mediator.shell.relaystatus import tell_status
    from mediator.shell.store import STORE_FILE
    from netctl.wire.relayframe import RELAY_ALPN

    own = (arguments.state / IDENTITY_FILE).exists()
    if own:  # the mediator's own state directory, or that of a relay without a mediator beside it
        identity = Identity.load(arguments.state)
        whose, context = identity.public, identity.server_context(RELAY_ALPN)
        secret = relay_secret(arguments.state)
    else:
        handed, secret = handed_over(arguments.state)
        whose, context = handed.identity, server_context(handed.pem, RELAY_ALPN)
    _, mediator = _load_mediator(arguments, whose)
    # The mediator that runs beside it passes connections on; where there is none, they come to the relay itself.
    ports = sorted({mediator.port, *mediator.tls}) if mediator.relay_only else []

    def start_anew() -> None:
        print("the mediator has given this relay another key: it starts anew", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

    @contextlib.contextmanager
    def beside(relay: RelayServer) -> Iterator[None]:
        with (
            contextlib.closing(PairReader(arguments.state / STORE_FILE)) as reader,
            open_doors(relay, context, arguments.state, arguments.listen, ports),
            tell_status(relay, arguments.state),
        ):
            if own:
                relay.watch(lambda now: reader.tell(relay.pairs, now))
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
            also=beside,
        )
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from mediator.shell.keys import Identity
    from mediator.shell.store import STORE_FILE, Store

    document, mediator = _load_mediator(arguments, Identity.load(arguments.state).public)
    store = Store(arguments.state / STORE_FILE)
    problems = store.check()
    leases = store.leases()
    store.close()
    for problem in problems:
        print(f"store: {problem}", file=sys.stderr)
    if problems:
        return 1
    print(f"sound: {len(document.members)} members, {len(leases)} leases, at {mediator.host}:{mediator.port}")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from mediator.shell.asking import ask_mediator
    from mediator.shell.relaystatus import ask_relay

    state: dict[str, Any] = ask_mediator(arguments.state, {"op": "status"})
    state["relay"] = ask_relay(Path(state["relay_state"]))
    document = state["document"]
    if arguments.output == "json":
        print(json.dumps(state, indent=2))
        return 1 if document["refused"] else 0
    print(f"{state['online']} of {state['members']} members online, {state['networks']} networks")
    print(f"document {document['path']}, digest {document['digest'][:12]}, for {document['since_s']:.0f} s")
    say_relay(state["relay"], {int(port): name for port, name in state["relay_ports"].items()})
    for message in state["without_address"]:
        print(f"warning: {message}", file=sys.stderr)
    if state["without_port"]:
        print(
            f"warning: no relay port is left for {state['without_port']} pairs with stock apps: widen relayPorts",
            file=sys.stderr,
        )
    if document["refused"]:
        print(
            f"warning: the file as it is now is refused, and the last good one stays:\n{document['refused']}",
            file=sys.stderr,
        )
        return 1
    return 0


def _bans(arguments: argparse.Namespace) -> int:
    from mediator.shell.asking import ask_mediator

    found = ask_mediator(arguments.state, {"op": "bans.list"})
    if arguments.output == "json":
        print(json.dumps(found, indent=2))
        return 0
    for ban in found["bans"]:
        print(f"{ban['source']}: {ban['left_s']:.0f} s left, {ban['refused']} connections refused")
    for slow in found["slowed"]:
        print(f"{slow['member']}: logs in too often, {slow['refused']} logins refused")
    if not found["bans"] and not found["slowed"]:
        print(f"nobody is banned; {found['strangers']} connections have not logged in yet")
    return 0


def _unban(arguments: argparse.Namespace) -> int:
    from mediator.shell.asking import ask_mediator

    ask_mediator(arguments.state, {"op": "bans.lift", "source": arguments.source})
    print(f"{arguments.source} may connect again")
    return 0


def _backup(arguments: argparse.Namespace) -> int:
    from mediator.shell.archive import backup

    size = backup(arguments.state, arguments.file, force=arguments.force)
    print(
        f"{arguments.file}: {size} bytes; it holds this server's identity, so keep it as safe as {arguments.state}"
    )
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    from mediator.shell.archive import restore

    restore(arguments.state, arguments.file, force=arguments.force)
    print(f"{arguments.state} is as {arguments.file} has it")
    return 0


COMMANDS = {
    "init": _init,
    "setup": _setup,
    "serve": _serve,
    "relay": _relay,
    "check": _check,
    "status": _status,
    "bans": _bans,
    "unban": _unban,
    "backup": _backup,
    "restore": _restore,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. Errors are one clear line and exit code 1."""
    arguments = _parser().parse_args(argv)
    try:
        return COMMANDS[arguments.command](arguments)
    except NetctlError as error:
        print(f"netctl-mediator: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("NETCTL_DEBUG"):
            traceback.print_exc()
        print(f"netctl-mediator: internal error: {error} (NETCTL_DEBUG=1 shows where)", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
