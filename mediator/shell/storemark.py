"""The mark in a store that says whether it is the one in force: a move leaves two, and only one may be served from.

| state    | event                        | next                                 |
|----------|------------------------------|--------------------------------------|
| serving  | a move from here is done     | moved                                |
| any      | a move to here has copied    | arriving: all rows are here          |
| arriving | the source is marked `moved` | serving                              |
| arriving | it is asked for again        | arriving, copied anew                |

A store that serves and is not empty is never moved onto.
"""

from __future__ import annotations

from dataclasses import dataclass

from mediator.shell.sqlsession import Session
from netctl.model.errors import LocalError

SERVING, ARRIVING, MOVED = "serving", "arriving", "moved"


@dataclass(frozen=True, slots=True)
class Mark:
    """What a store says of itself."""

    state: str
    move: str
    """Which move: the same word in both stores."""
    other: str
    """Where it came from, or went to, in words for people."""


async def read_mark(db: Session) -> Mark:
    """Within a transaction. A store of before there were marks serves."""
    rows = await db.rows("SELECT state, move, other FROM place")
    return Mark(*rows[0]) if rows else Mark(SERVING, "", "")


async def set_mark(db: Session, mark: Mark) -> None:
    """Within a transaction."""
    await db.change("UPDATE place SET state=?, move=?, other=?", mark.state, mark.move, mark.other)


async def check_place(db: Session, name: str) -> None:
    """Within every transaction that writes: raises LocalError unless this store is the one in force."""
    refuse_other(await read_mark(db), name)


def refuse_other(mark: Mark, name: str) -> None:
    """Raise LocalError unless the store is in force; `name`: of the store, for people."""
    if mark.state == MOVED:
        raise LocalError(f"the store was moved from {name} to {mark.other}: start the server with that one")
    if mark.state == ARRIVING:
        raise LocalError(
            f"a move of the store from {mark.other} to {name} has begun and is not done: say `netctl-mediator store "
            "move` with the same words again"
        )
