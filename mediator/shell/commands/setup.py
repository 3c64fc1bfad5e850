"""`netctl-mediator setup`: set up a server and print an invite, in one command.

Makes what is missing and keeps what exists: the identity, a first document that admits invites, the services.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

from mediator.core.membershipservice import check_uses
from mediator.shell import output
from mediator.shell.admin import life_s
from mediator.shell.asking import ask_mediator
from mediator.shell.credentials import Identity, relay_secret
from mediator.shell.options import add_document, add_port, add_state
from mediator.shell.ports import EVERYWHERE, taken
from mediator.shell.stateroles import refuse_apart
from netctl.config import load_document
from netctl.config.edit.template import TRIES, Server, first_document, free_pool, installation_id
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.model.forpeople import counted
from netctl.system.files import PUBLIC_DIRECTORY, create, make_directory
from netctl.system.ourselves import module
from netctl.wire import operatorrequests as r

UNITS = ("netctl-relay.service", "netctl-mediator.service")
START_TIMEOUT_S = 30.0
"""A small server takes some seconds to import and to bind; a document of thousands of members takes longer."""
POLL_S = 0.1
DEFAULT_USES = 10
"""Uses of the invite: one string for all hosts of a household or small team."""
DEFAULT_LIFE = "24h"
DOCUMENT_MODE = 0o644
"""Mode of the document: it holds no secret, and hosts fetch it."""
STUN_PORTS = "3478:3479"


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_state(parser)
    add_document(parser)
    parser.add_argument("host", metavar="HOST", help="the name or address by which members reach this server")
    add_port(parser)
    parser.add_argument(
        "--network", default="home", metavar="NAME", help="what the network is called (default home)"
    )
    parser.add_argument(
        "--uses",
        type=int,
        default=DEFAULT_USES,
        metavar="N",
        help=f"hosts that may use the invite (default {DEFAULT_USES})",
    )
    parser.add_argument(
        "--expires", default=DEFAULT_LIFE, metavar="TIME", help=f"30m, 24h, 7d (default {DEFAULT_LIFE})"
    )
    parser.add_argument(
        "--join",
        action="store_true",
        help="make this server a member too: it is on the LAN, and gets what is sent to it and to everybody",
    )


def run(arguments: argparse.Namespace) -> int:
    """Perform all steps. Raises LocalError."""
    if os.geteuid() != 0:
        raise LocalError("this writes below /etc and starts services: run it with sudo")
    check_uses(arguments.uses + arguments.join)
    life_s(arguments.expires)
    alone = arguments.port == EVERYWHERE or taken(EVERYWHERE)
    tls = () if alone else (EVERYWHERE,)
    refuse_apart(arguments.state)
    identity = Identity.kept(arguments.state)
    relay_secret(arguments.state)
    document = _document(arguments, str(identity.public), tls)
    network = _invited(document, arguments)
    ports = _ports(document, str(identity.public))
    if not _start():
        output.note("No systemd runs here. Start the server yourself, then ask for an invite:")
        output.note("  netctl-mediator serve &")
        output.note(f"  netctl invite {network} --uses {arguments.uses} --expires {arguments.expires}")
        _say_firewall(ports)
        return 0
    invite = _invite(arguments, network)
    if arguments.join:
        _join(invite)
    _say_firewall(ports)
    output.note(
        f"The mediator runs, and network '{network}' takes {counted(arguments.uses, 'host')} for {arguments.expires}."
    )
    output.note("On each host, with netctl installed, type `sudo netctl join` and give it this string:")
    output.line(invite)
    return 0


def _document(arguments: argparse.Namespace, identity: str, tls: tuple[int, ...]) -> Document:
    """The existing document, or a new first one."""
    path: Path = arguments.document
    if not path.exists():
        server = Server(f"netctl://{_bracketed(arguments.host)}:{arguments.port}", identity, tls)
        text = first_document(
            host=None,
            installation=installation_id(secrets.token_bytes(8)),
            network=arguments.network,
            mode="lan",
            pool=free_pool([secrets.randbits(16) for _ in range(TRIES)], ()),
            servers=(server,),
        )
        document = load_document(text, str(path)).document
        _write(path, text)
        output.note(f"wrote {path}: network '{arguments.network}'")
        return document
    document = load_document(path.read_text(encoding="utf-8"), str(path)).document
    if not any(identity in map(str, mediator.identity) for mediator in document.mediators):
        raise LocalError(
            f"{path} is there and stays as it is, but it does not name this server: under `mediators:` write "
            f'{{url: "netctl://{_bracketed(arguments.host)}:{arguments.port}", identity: ["{identity}"]}}'
        )
    return document


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _write(path: Path, text: str) -> None:
    try:
        make_directory(path.parent, PUBLIC_DIRECTORY)
        create(path, text, DOCUMENT_MODE)
    except OSError as error:
        raise LocalError(f"{path} cannot be written: {error.strerror}") from error


def _invited(document: Document, arguments: argparse.Namespace) -> str:
    """The network of the invite. Raises LocalError if none admits invites."""
    open_ones = [network.name for network in document.networks.values() if network.join.invites]
    if arguments.network in open_ones:
        return str(arguments.network)
    if len(open_ones) == 1:
        return open_ones[0]
    if open_ones:
        raise LocalError(f"several networks let invites in: name one with --network ({', '.join(open_ones)})")
    raise LocalError(
        f"no network of {arguments.document} lets invites in: write `join: {{invites: true}}` into one"
    )


def _ports(document: Document, identity: str) -> tuple[list[int], tuple[int, int]]:
    """(TCP ports, (first, last) UDP port of the relay)."""
    mediator = next(one for one in document.mediators if identity in map(str, one.identity))
    return sorted({mediator.port, *mediator.tls}), mediator.relay_ports


def _start() -> bool:
    """Enable and start the services; False: no systemd with these units."""
    if shutil.which("systemctl") is None or not os.path.isdir("/run/systemd/system"):
        return False
    known = subprocess.run(["systemctl", "cat", *UNITS], capture_output=True, check=False)
    if known.returncode != 0:
        return False
    done = subprocess.run(
        ["systemctl", "enable", "--now", "--quiet", *UNITS], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise LocalError(
            f"the services do not start: {done.stderr.strip() or 'see'}; journalctl -u netctl-mediator"
        )
    return True


def _invite(arguments: argparse.Namespace, network: str) -> str:
    """Wait for the server, and request the invite from it. Raises LocalError."""
    uses = arguments.uses + arguments.join  # one more use for this host itself
    request = r.CreateInvite(network, uses, arguments.expires)
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            ask_mediator(arguments.state, r.ServerStatusRequest())
        except LocalError as error:
            if time.monotonic() > deadline:
                raise LocalError(f"{error}; `journalctl -u netctl-mediator` says why") from None
            time.sleep(POLL_S)
        else:
            return ask_mediator(arguments.state, request).reply.invite


def _join(invite: str) -> None:
    """Join with the new invite, as any host does. Raises LocalError."""
    output.note("This server joins:")
    done = subprocess.run(module("netctl.cli.entry", "join", "-"), input=invite, text=True, stdout=sys.stderr)
    if done.returncode != 0:
        raise LocalError("this server did not join, and the line above says why; the mediator runs")


def _say_firewall(ports: tuple[list[int], tuple[int, int]]) -> None:
    """Print the ports to open, as commands of the firewall that runs here."""
    tcp, relay = ports
    first, last = relay
    if _runs("ufw", "status", says="Status: active"):
        lines = [f"ufw allow {port}/tcp" for port in tcp]
        lines += [f"ufw allow {STUN_PORTS}/udp", f"ufw allow {first}:{last}/udp"]
    elif _runs("firewall-cmd", "--state", says="running"):
        words = [f"--add-port={port}/tcp" for port in tcp]
        words += [f"--add-port={STUN_PORTS.replace(':', '-')}/udp", f"--add-port={first}-{last}/udp"]
        lines = [f"firewall-cmd --permanent {' '.join(words)} && firewall-cmd --reload"]
    else:
        said = " and ".join(map(str, tcp))
        text = f"TCP {said}, UDP {STUN_PORTS.replace(':', '-')} (STUN), UDP {first}-{last} (relay)"
        output.note(f"Open in this server's firewall, if it has one: {text}")
        return
    output.note("This server's firewall must let members in:")
    for line in lines:
        output.note(f"  sudo {line}")


def _runs(program: str, *words: str, says: str) -> bool:
    if shutil.which(program) is None:
        return False
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False, timeout=10)
    return says in done.stdout.splitlines()
