"""`netctl-mediator check`: whether the store, the identity and the document are sound."""

from __future__ import annotations

import argparse

from mediator.shell import output
from mediator.shell.identified import load_mediator
from mediator.shell.keys import Identity
from mediator.shell.options import add_document, add_state
from mediator.shell.store import STORE_FILE, Store


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_state(parser)
    add_document(parser)


def run(arguments: argparse.Namespace) -> int:
    """Look at all three. Exit 1 when the store is not sound."""
    document, mediator = load_mediator(arguments.document, Identity.load(arguments.state).public)
    store = Store(arguments.state / STORE_FILE)
    problems = store.check()
    leases = store.leases()
    store.close()
    for problem in problems:
        output.note(f"store: {problem}")
    if problems:
        return 1
    output.line(
        f"sound: {len(document.members)} members, {len(leases)} leases, at {mediator.host}:{mediator.port}"
    )
    return 0
