"""`netctl-mediator init`: make this server's identity, and print the lines for networks.yaml."""

from __future__ import annotations

import argparse

from mediator.shell import output
from mediator.shell.credentials import RELAY_SECRET_FILE, Identity, relay_secret
from mediator.shell.options import add_port, add_state
from mediator.shell.ports import EVERYWHERE, taken
from mediator.shell.stateroles import mark_apart, refuse_apart, refuse_mediators
from netctl.model.errors import LocalError


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_state(parser)
    parser.add_argument(
        "--host", default="mediator.example.net", help="the name or address members reach it at"
    )
    add_port(parser)
    parser.add_argument(
        "--relay", action="store_true", help="of a relay on a machine of its own, beside mediators elsewhere"
    )


def run(arguments: argparse.Namespace) -> int:
    """Make the identity, and print its public key."""
    if arguments.relay:
        return _relay(arguments)
    refuse_apart(arguments.state)
    secret = arguments.state / RELAY_SECRET_FILE
    had = secret.exists()
    relay_secret(arguments.state)
    try:
        identity = Identity.create(arguments.state)  # last, so that a failure before it can be retried
    except LocalError:
        if not had:
            secret.unlink(missing_ok=True)
        raise
    output.line("mediators:")
    output.line(f"  - url: netctl://{arguments.host}:{arguments.port}")
    output.line(f'    identity: ["{identity.public}"]')
    also = tls = ""
    if arguments.port != EVERYWHERE:
        if taken(EVERYWHERE):
            output.note(f"Port {EVERYWHERE} is another server's here: the mediator goes without.")
        else:
            output.line(f"    tls: [{EVERYWHERE}]")
            also, tls = f" and {EVERYWHERE}", f"?tls={EVERYWHERE}"
    url = f"netctl://{arguments.host}:{arguments.port}{tls}"
    output.note("Put these lines into networks.yaml, or make a first one on one of your hosts:")
    output.note(f"  sudo netctl init --mediator '{url}#{identity.public}'")
    output.note("Open in this server's firewall:")
    output.note(f"  TCP {arguments.port}{also}, UDP 3478-3479 (STUN), UDP 40000-40999 (relay)")
    return 0


def _relay(arguments: argparse.Namespace) -> int:
    """The same for a relay apart: it shares no secret with anybody."""
    refuse_mediators(arguments.state)
    identity = Identity.create(arguments.state)
    mark_apart(arguments.state)
    output.line(f"  - url: netctl://{arguments.host}:{arguments.port}")
    output.line(f'    identity: ["{identity.public}"]')
    output.line("    role: relay")
    output.note(
        "Put these lines under `mediators:` in networks.yaml, below the mediators, and bring it to every host."
    )
    output.note("Open in this server's firewall:")
    output.note("  UDP 3478-3479 (STUN), UDP 40000-40999 (relay)")
    return 0
