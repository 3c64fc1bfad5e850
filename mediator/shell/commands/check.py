"""`netctl-mediator check`: check identity, relay secret, document and store."""

from __future__ import annotations

import argparse
from pathlib import Path

from mediator.shell import output
from mediator.shell.credentials import RELAY_SECRET_FILE, Identity, relay_secret
from mediator.shell.identified import load_mediator
from mediator.shell.options import add_document, add_state
from mediator.shell.storeplace import elsewhere, had_store, open_store
from mediator.shell.watched import KEPT_FILE
from netctl.model.errors import NetctlError
from netctl.model.forpeople import counted


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_state(parser)
    add_document(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check all four without creating any. Prints every fault; exit 1 if there is one."""
    state: Path = arguments.state
    identity = Identity.load(state)
    problems: list[str] = []
    sound = ""
    try:
        document, mediator = load_mediator(arguments.document, identity.public)
        sound = f"{counted(len(document.members), 'member')}, {{leases}}, at {mediator.host}:{mediator.port}"
    except NetctlError as error:
        kept = state / KEPT_FILE
        more = f"\nthe server starts with the last good one, {kept}" if kept.exists() else ""
        problems.append(f"document: {error}{more}")
    try:
        if (state / RELAY_SECRET_FILE).exists():
            relay_secret(state)
    except NetctlError as error:
        problems.append(f"relay secret: {error}")
    leases = "no store yet"
    try:
        if (name := elsewhere(state)) is not None:
            leases = f"its store is {name}"
        elif had_store(state):
            store = open_store(state)
            problems += [f"store: {problem}" for problem in store.check()]
            if store.takes_nothing is not None:
                problems.append(f"store: {store.takes_nothing}")
            leases = counted(len(store.leases()), "lease")
            store.close()
    except NetctlError as error:
        problems.append(f"store: {error}")
    for problem in problems:
        output.note(problem)
    if not problems:
        output.line(f"sound: {sound.format(leases=leases)}")
    return 1 if problems else 0
