"""`netctl join`: join a network with an invite."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.ask import NoAgentError, ask
from netctl.cli.options import add_engine
from netctl.model.errors import LocalError
from netctl.wire import agentrequests as r

if TYPE_CHECKING:
    from netctl.agent.storage.statestore import StateStore

ONLINE_TIMEOUT_S = 20.0
"""Login, view and apply take 1 to 2 s; a small machine that compiles its rules takes more."""
POLL_S = 0.2
MAX_INPUT = 65536
"""Characters. An invite has 2,048 at most; a mail may add blanks around it."""


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument(
        "invite",
        nargs="?",
        metavar="-|INVITE",
        help="- reads the string of `netctl invite` from standard input; without it you are asked. As an argument "
        "every user of this machine can read it",
    )
    parser.add_argument("--name", help="what this host is to be called (default: its host name)")
    parser.add_argument(
        "--allow-routes",
        action=argparse.BooleanOptionalAction,
        help="take also routes and pools of public space, or over what this host has (docs/joining.md)",
    )
    add_engine(parser)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Make keys, enrol, start the agent, and wait until this host is on the network."""
    import asyncio

    from netctl.agent.mediators.enrolclient import enrol
    from netctl.agent.storage.keyfiles import make_keys
    from netctl.agent.storage.statestore import StateStore
    from netctl.cli.starting import restart_agent, start_agent
    from netctl.config.edit.excerpt import bootstrap
    from netctl.engine.privilege import check_privileges
    from netctl.node.choices import Joined
    from netctl.wire.invite import parse_invite

    store = StateStore(locations)
    if arguments.allow_routes is not None and arguments.invite is None and store.joined() is not None:
        check_privileges()
        return _agree(store, locations, arguments.allow_routes)
    invite = parse_invite(_string(arguments.invite))
    name = _name(arguments.name)
    check_privileges()
    if store.joined() is None and locations.accepted.exists():
        raise LocalError(
            "this host has a document already: write it into the network's `members` there, then `netctl apply`"
        )
    keys, fresh = make_keys(locations)
    output.progress(f"enrolling at {invite.mediators[0].host}")
    answer = asyncio.run(enrol(keys, invite, name, exact=arguments.name is not None))
    first = store.joined() is None or not locations.accepted.exists()
    if first:
        text = bootstrap(answer.name, str(keys.wireguard), str(keys.identity), invite.mediators)
        store.set_joined(Joined(answer.network, bool(arguments.allow_routes)))
        store.accept(text)
    elif arguments.allow_routes is not None:
        _set_routes(store, arguments.allow_routes)
    if fresh:  # a running agent still uses the old keys
        restart_agent(locations, arguments.engine, at_boot=True)
    else:
        try:
            ask(locations, r.Adopt())
        except NoAgentError:
            start_agent(locations, arguments.engine, at_boot=True)
    if not answer.admitted:
        output.line(
            f"{answer.name} waits until the operator lets it into {answer.network}; this host keeps asking"
        )
        return 0
    return _wait_for(locations, answer.name, answer.network)


def _set_routes(store: StateStore, allow: bool) -> None:
    joined = store.joined()
    if joined is not None:
        store.set_joined(replace(joined, routes=allow))


def _agree(store: StateStore, locations: Locations, allow: bool) -> int:
    """Accept, or no longer accept, the routes that need a person's consent."""
    _set_routes(store, allow)
    ask(locations, r.Adopt())
    output.line(
        "this host takes every route that its mediator gives: what goes there goes to the member that has it"
        if allow
        else "this host takes no route of public space, and none over what it has itself"
    )
    return 0


def _say_refused(conditions: list[str]) -> None:
    """Warn of the parts of the mediator's view that this host refused."""
    for condition in conditions:
        output.warning(condition)


def _string(said: str | None) -> str:
    """The invite: from the argument, from standard input, or typed at a prompt. Raises LocalError."""
    if said not in (None, "-"):
        return str(said)
    if sys.stdin.isatty():
        output.ask("Invite: ")
        return sys.stdin.readline()
    text = sys.stdin.read(MAX_INPUT)
    if not text.strip():
        raise LocalError("no invite on standard input: `netctl join`, and paste what `netctl invite` printed")
    return text


def _name(wanted: str | None) -> str:
    from netctl.config.edit.hostnames import checked_name, label_of

    return checked_name(wanted) if wanted else label_of(os.uname().nodename)


def _wait_for(locations: Locations, name: str, network: str) -> int:
    deadline = time.monotonic() + ONLINE_TIMEOUT_S
    why = "the agent is still at it"
    while time.monotonic() < deadline:
        state = ask(locations, r.Status(look=False)).reply
        there = state.networks.get(network)
        if there is not None and there.addresses and state.engine:
            _say_refused(state.conditions)
            output.line(f"{name} is on {network}: {', '.join(there.addresses)}")
            return 0
        why = state.mediator.error or "; ".join(state.conditions) or why
        time.sleep(POLL_S)
    output.error(f"{name} has joined {network} and is not on it yet: {why}; see `netctl status`")
    return 1
