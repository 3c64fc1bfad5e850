"""`netctl-mediator store move`: move the store from SQLite to PostgreSQL, or back."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from mediator.shell import output
from mediator.shell.credentials import belong
from mediator.shell.options import add_state, add_store_password
from mediator.shell.postgresplace import PostgresPlace, is_postgres
from mediator.shell.store import STORE_FILE, Store
from mediator.shell.storeplace import had_store, note_store
from netctl.model.errors import LocalError

SQLITE = "sqlite"


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_state(parser)
    parser.add_argument(
        "action", choices=["move"], help="move: take everything along, and leave nothing behind"
    )
    place = f"postgresql://USER@HOST[,HOST]/DATABASE, or '{SQLITE}' for mediator.db in the state directory"
    parser.add_argument("--to", metavar="STORE", required=True, help=place)
    parser.add_argument("--from", dest="source", metavar="STORE", default=SQLITE, help=f"default: {SQLITE}")
    add_store_password(parser)


def run(arguments: argparse.Namespace) -> int:
    """Move the store. A server may run meanwhile, but must be restarted with the other store afterwards."""
    if SQLITE in (arguments.source, arguments.to) and arguments.source == arguments.to:
        raise LocalError(
            "from where to where? Say `--to postgresql://…`, or `--from postgresql://… --to sqlite`"
        )
    for text in (arguments.source, arguments.to):
        if text != SQLITE and not is_postgres(text):
            raise LocalError(f"'{text}' is no store: say {SQLITE}, or postgresql://USER@HOST[,HOST]/DATABASE")
    state: Path = arguments.state
    if arguments.source == SQLITE and not (state / STORE_FILE).exists():
        lost = ", and this server had one" if had_store(state) else ""
        raise LocalError(f"there is no {state / STORE_FILE}{lost}")
    places = {
        text: PostgresPlace.parse(text, arguments.store_password_file)
        for text in (arguments.source, arguments.to)
        if text != SQLITE
    }
    counts = asyncio.run(_move(state, arguments.source, arguments.to, places))
    target = places.get(arguments.to)
    note_store(state, target.name if target is not None else STORE_FILE)
    rows = ", ".join(f"{number} {table}" for table, number in counts.items() if number)
    output.line(f"moved: {rows or 'an empty store'}")
    option = " without --store" if target is None else f" with --store {arguments.to}"
    output.line(f"start the server{option}; one that runs serves the members it knows, and takes nothing new")
    return 0


async def _move(state: Path, source: str, target: str, places: dict[str, PostgresPlace]) -> dict[str, int]:
    from mediator.shell.storemove import End, PostgresEnd, SqliteEnd, move

    sqlite = Store(state / STORE_FILE) if SQLITE in (source, target) else None

    def end(text: str) -> End:
        if sqlite is not None and text == SQLITE:
            return SqliteEnd(sqlite, str(state / STORE_FILE))
        return PostgresEnd(places[text])

    try:
        if sqlite is not None:
            belong(state / STORE_FILE)
        return await move(end(source), end(target))
    finally:
        if sqlite is not None:
            sqlite.close()
