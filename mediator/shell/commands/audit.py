"""`netctl-mediator audit`: print the audit log: invitations, approvals, revocations and documents."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from msgspec import structs

from mediator.core.audit import PAGE
from mediator.shell import output
from mediator.shell.admin import audit_row
from mediator.shell.asking import NoMediatorError, ask_mediator
from mediator.shell.options import add_output, add_state
from mediator.shell.store import STORE_FILE, Store
from mediator.shell.storeplace import elsewhere
from mediator.shell.storesql import audit
from mediator.shell.timearguments import moment_s
from netctl.model.errors import LocalError
from netctl.wire import operatorrequests as r


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_state(parser)
    parser.add_argument(
        "--since", metavar="TIME", help="30m, 24h, 7d, or a date: 2026-03-01, 2026-03-01T12:00 (UTC)"
    )
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the log, oldest line first; from the store's file if no server runs."""
    since_s = 0
    if arguments.since is not None:
        found = moment_s(arguments.since, int(time.time()))
        if found is None:
            raise LocalError(
                f"'{arguments.since}' is no time: say 30m, 24h or 7d, or a date as 2026-03-01 or 2026-03-01T12:00"
            )
        since_s = found
    rows = _rows(arguments.state, since_s)
    if arguments.output == "json":
        output.json([structs.asdict(row) for row in rows])
        return 0
    for row in rows:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row.at_s))
        output.line(
            f"{when} {_one(row.who)}: {row.what} {_one(row.subject)}"
            + (f" ({_one(row.detail)})" if row.detail else "")
        )
    return 0


def _one(text: str) -> str:
    return " ".join(text.split())


def _rows(state: Path, since_s: int) -> Iterator[r.AuditRow]:
    after = 0
    while True:
        page = _page(state, r.ListAudit(since_s, after))
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1].number


def _page(state: Path, request: r.ListAudit) -> list[r.AuditRow]:
    try:
        return ask_mediator(state, request).reply
    except NoMediatorError:
        if (name := elsewhere(state)) is not None:
            raise LocalError(
                f"no mediator runs here to ask; its store is {name}: the lines are in the table `audit` there"
            ) from None
        if not (state / STORE_FILE).exists():
            raise
    with closing(Store(state / STORE_FILE, upgrade=False)) as store:
        found = store.perform(
            "a look at its audit log", lambda db: audit(db, request.since_s, request.after), writes=False
        )
    return [audit_row(entry) for entry in found]
