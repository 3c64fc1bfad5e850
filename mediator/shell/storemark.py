"""The mark in a store that says whether the store is in force: a move leaves two stores, and only one may be used.

| state    | event                        | next                                 |
|----------|------------------------------|--------------------------------------|
| serving  | a move from here is done     | moved                                |
| any      | a move to here has copied    | arriving: all rows are here          |
| arriving | the source is marked `moved` | serving                              |
| arriving | the same move is repeated    | arriving, copied anew                |

A serving store with rows is never overwritten by a move.
"""

from __future__ import annotations

from dataclasses import dataclass

from mediator.shell.sqlsession import Session
from netctl.model.errors import LocalError

SERVING, ARRIVING, MOVED = "serving", "arriving", "moved"


@dataclass(frozen=True, slots=True)
class Mark:
    """The mark of a store."""

    state: str
    move: str
    """The id of the move, the same in both stores."""
    other: str
    """The source or target of the move, as text for people."""


async def read_mark(db: Session) -> Mark:
    """Read the mark, within a transaction. A store older than marks counts as serving."""
    rows = await db.rows("SELECT state, move, other FROM place")
    return Mark(*rows[0]) if rows else Mark(SERVING, "", "")


async def set_mark(db: Session, mark: Mark) -> None:
    """Write the mark, within a transaction."""
    await db.change("UPDATE place SET state=?, move=?, other=?", mark.state, mark.move, mark.other)


async def check_place(db: Session, name: str) -> None:
    """Called in every writing transaction: raises LocalError unless this store is in force."""
    refuse_other(await read_mark(db), name)


def refuse_other(mark: Mark, name: str) -> None:
    """Raise LocalError unless the store is in force; `name`: the store's name for people."""
    if mark.state == MOVED:
        raise LocalError(f"the store was moved from {name} to {mark.other}: start the server with that one")
    if mark.state == ARRIVING:
        raise LocalError(
            f"a move of the store from {mark.other} to {name} has begun and is not done: say `netctl-mediator store "
            "move` with the same words again"
        )
