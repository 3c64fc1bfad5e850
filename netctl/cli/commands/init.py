"""`netctl init`: write the first `networks.yaml`, with this host as its first member."""

from __future__ import annotations

import argparse
import ipaddress
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.options import add_file
from netctl.config.edit.template import Server
from netctl.model.addresses import Prefix
from netctl.model.errors import ConfigError, LocalError
from netctl.system.files import PUBLIC_DIRECTORY, create, make_directory

WIDTH = 46
"""Width of a command in the list of next steps, in characters."""
MODE = 0o644
"""Mode of the document: everybody may read it, as it holds no secret."""


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_file(parser)
    parser.add_argument(
        "--network", default="home", metavar="NAME", help="what the network is called (default: home)"
    )
    parser.add_argument(
        "--mode", choices=["lan", "routed"], default="lan", help="with broadcast, or IP alone (default: lan)"
    )
    parser.add_argument(
        "--mediator",
        action="append",
        default=[],
        metavar="URL#IDENTITY",
        help="as `netctl-mediator init` prints it; without one, addresses and endpoints are fixed",
    )
    parser.add_argument("--name", help="what this host is called (default: its host name)")
    parser.add_argument(
        "--ipv4", metavar="POOL", help="the addresses (default: a /24 that this host has no route to)"
    )
    parser.add_argument(
        "--endpoint",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="where this host is reached from outside",
    )


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Make this host's keys and write the document; change nothing if a document exists."""
    from netctl.agent.storage.keyfiles import make_keys
    from netctl.config import load_document
    from netctl.config.edit.hostnames import checked_name, label_of
    from netctl.config.edit.template import Host, first_document, installation_id

    path: Path = arguments.file or locations.config
    if path.exists() or path.is_symlink():
        raise LocalError(
            f"{path} is there already and stays as it is; `netctl validate {path}` checks it, and "
            "`netctl keys` prints this host's line for it"
        )
    if locations.accepted.exists():
        raise LocalError(
            "this host lives by a document already: `netctl status` shows it; `netctl leave` gives it up "
            "where it came by invite"
        )
    servers = [Server.parse(text) for text in arguments.mediator]
    pool = _pool(arguments.ipv4)
    name = checked_name(arguments.name) if arguments.name else label_of(os.uname().nodename)

    def document(wireguard: str, identity: str) -> str:
        return first_document(
            host=Host(name, wireguard, identity, arguments.endpoint),
            installation=installation_id(secrets.token_bytes(8)),
            network=arguments.network,
            mode=arguments.mode,
            pool=pool,
            servers=servers,
        )

    pair, made = make_keys(locations)
    text = document(str(pair.wireguard), str(pair.identity))
    try:
        load_document(text, str(path))
    except ConfigError as error:
        finding = error.findings[0]
        hint = f" ({finding.hint})" if finding.hint else ""
        raise LocalError(f"nothing was written: {finding.path}: {finding.message}{hint}") from None
    _write(path, text)
    output.note(f"{'made' if made else 'kept'} the keys in {locations.state}")
    output.line(f"wrote {path}: network '{arguments.network}' ({pool}), member '{name}'")
    output.line("next:")
    for command, does in _next(path, servers):
        output.line(f"  {command:<{WIDTH}}  # {does}")
    return 0


def _next(path: Path, servers: Sequence[Server]) -> list[tuple[str, str]]:
    """The two commands to run next, each with an explanation."""
    up = ("sudo netctl up", "start the agent, and bring this host up")
    if not servers:
        return [("sudo netctl keys init", "on the next host: prints its line for the file"), up]
    host = _host(servers[0].url)
    return [(f"scp {path} root@{host}:/etc/netctl/", "the mediator follows the same file"), up]


def _host(url: str) -> str:
    """The host of a mediator's URL, in scp's form."""
    from urllib.parse import urlsplit

    host = urlsplit(url).hostname or "MEDIATOR"
    return f"[{host}]" if ":" in host else host


def _taken() -> Iterable[Prefix]:
    """The destinations of this host's present routes."""
    from netctl.engine.links.foreignscan import look

    found, own = look((), ())
    return [*(route.destination for route in found), *own]


def _pool(wanted: str | None) -> Prefix:
    from netctl.config.edit.template import TRIES, free_pool

    if wanted is None:
        numbers = [secrets.randbits(16) for _ in range(TRIES)]
        return free_pool(numbers, _taken())
    try:
        return ipaddress.IPv4Network(wanted)
    except ValueError as error:
        raise LocalError(f"--ipv4 {wanted}: {error}; a pool is written like 10.147.20.0/24") from None


def _write(path: Path, text: str) -> None:
    """Create the file, completely or not at all; never replace an existing file. Raises LocalError."""
    try:
        make_directory(path.parent, PUBLIC_DIRECTORY)
        create(path, text, MODE)
    except FileExistsError:
        raise LocalError(f"{path} is there already and stays as it is") from None
    except OSError as error:
        hint = "; run this as root" if isinstance(error, PermissionError) else ""
        raise LocalError(f"{path} cannot be written: {error.strerror}{hint}") from error
