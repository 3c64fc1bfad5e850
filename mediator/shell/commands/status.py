"""`netctl-mediator status`: print the state of the server on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mediator.shell import output
from mediator.shell.asking import NoMediatorError, ask_mediator
from mediator.shell.options import add_output, add_state
from mediator.shell.relaystatus import ask_relay
from mediator.shell.relaywords import say_relay
from mediator.shell.stateroles import is_apart
from netctl.model.forpeople import counted
from netctl.model.portspans import spans_text
from netctl.wire import operatorrequests as r


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_state(parser)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the state, of a relay apart too. Exit 1 if the server refuses its file or the store's document."""
    try:
        answer = ask_mediator(arguments.state, r.ServerStatusRequest())
    except NoMediatorError:
        alone = ask_relay(arguments.state) if is_apart(arguments.state) else None
        if alone is None:  # the relay of a mediator that has ended says nothing about the mediator
            raise
        _say_alone(alone, arguments)
        return 0
    state, document = answer.reply, answer.reply.document
    relay = ask_relay(Path(state.relay_state))
    if arguments.output == "json":
        output.json({**answer.plain, "relay": relay})
        return 1 if document.refused or document.store_refused else 0
    output.line(
        f"{state.online} of {counted(state.members, 'member')} online, {counted(state.networks, 'network')}"
    )
    output.line(f"document {document.path}, digest {document.digest[:12]}, for {document.since_s:.0f} s")
    _say_bus(state)
    _say_relays(state.relays)
    say_relay(relay, {int(port): name for port, name in state.relay_ports.items()})
    if state.store:
        output.warning(f"{state.store} Nobody can join, leave, be revoked or get a new address")
    for message in state.without_address:
        output.warning(message)
    if state.without_port:
        output.warning(
            f"no relay port is left for {counted(state.without_port, 'pair')} with stock apps: widen relayPorts"
        )
    if document.disagrees:
        output.warning(document.disagrees)
    if document.store_refused:
        output.warning(
            f"the document in force is refused here, and an older one is served:\n{document.store_refused}"
        )
    if document.refused:
        output.warning(f"the file as it is now is refused, and the last good one stays:\n{document.refused}")
        return 1
    return 1 if document.store_refused else 0


def _say_relays(relays: list[r.RelayRow]) -> None:
    """The relays apart, as they have registered."""
    for relay in relays:
        where = relay.relay + (f" ({relay.place})" if relay.place else "")
        if not relay.registered:
            output.warning(f"relay {where}: not registered; it knows no pairs of stock apps that are new")
        elif relay.bindings is None:
            output.line(f"relay {where}: registered")
        else:
            output.line(
                f"relay {where}: {counted(relay.bindings, 'binding')} of {counted(relay.members or 0, 'member')}, "
                f"{(relay.bits_per_s or 0) / 1e6:.1f} Mbit/s"
            )
        if relay.unheld:
            output.warning(
                f"relay {where}: other programs there hold its UDP ports {spans_text(relay.unheld)}; members with "
                "these ports use other relays"
            )


def _say_alone(relay: dict[str, Any], arguments: argparse.Namespace) -> None:
    """The status of a relay apart, which does not know whose a port is."""
    if arguments.output == "json":
        output.json({"relay": relay})
    else:
        say_relay(relay, {})


def _say_bus(state: r.ServerStatus) -> None:
    if state.bus is None:
        return
    if state.bus_away is not None:
        output.warning(f"the bus carries nothing: {state.bus_away}; members elsewhere are unknown")
    else:
        output.line(f"bus {state.bus}")
    if state.bus_dropped:
        output.warning(f"dropped from the bus: {counted(state.bus_dropped, 'message')} not of this release")
    for other in state.mediators:
        members = counted(other.online, "member")
        if other.alive:
            output.line(f"mediator {other.name}: {members} online there")
        else:
            output.warning(
                f"mediator {other.name}: nothing heard for {other.silent_s:.0f} s; its {members} are unknown"
            )
