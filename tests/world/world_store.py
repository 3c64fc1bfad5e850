"""The mediator's store: the real transactions on SQLite in memory, which outlives every process."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import weakref
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any, TypeVar

from mediator.core import admissions as a
from mediator.core import effects as fx
from mediator.core.acceptance import find_mediator
from mediator.core.kept import Kept, StoredDocument
from mediator.core.transactions import Change, Outdated
from mediator.shell import storesql
from mediator.shell.membershiprunner import commit
from mediator.shell.sqlsession import SqliteSession, finished
from mediator.shell.storeschema import MIGRATIONS
from mediator.shell.storesql import Body, SqlStore
from netctl.model.document import Document
from netctl.model.errors import LocalError, NetctlError
from netctl.model.keys import IdentityKey, WireGuardKey

T = TypeVar("T")


class _Here(SqlStore):
    takes_nothing: str | None = None
    replaced: str | None = None
    in_doubt = False

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.shared = store.shared

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def within(self, what: str, body: Body[T], *, writes: bool = True) -> T:
        return self._store.perform(body, writes=writes)


def accepted(found: StoredDocument, document: Document, identity: IdentityKey) -> StoredDocument:
    """A document of the store as the mediator with this identity reads it (`MembershipRunner`): without a parse, for
    `document` is what its text says.
    """
    try:
        return replace(found, accepted=(document, find_mediator(document, identity)))
    except NetctlError as error:
        return replace(found, accepted=error)


@functools.cache
def _empty() -> bytes:
    """A new database, after all migrations."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        for step in MIGRATIONS:
            db.executescript(step)
        return db.serialize()


class MemoryStore:
    """All or nothing. A lone mediator that grants something twice is at fault, and the story ends.

    `shared`: several mediators work with it; of two that grant the same, the second is told so.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self.shared = shared
        self.full = False
        self.generation = 0
        self.history: set[tuple[str, WireGuardKey, IPv4Address]] = set()
        """Every lease that there ever was: by network id."""
        # The garbage collector may close it in any thread.
        self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self._db.close)  # from Python 3.13 on an unclosed connection is a warning
        self._db.deserialize(_empty())
        self._db.execute("PRAGMA foreign_keys=ON")
        self._remembered = -1
        """`changes` when the leases were last looked at."""

    def perform(self, body: Body[T], *, writes: bool = True) -> T:
        """One transaction. Raises LocalError, or what it raises, and changes nothing."""
        if writes and self.full:
            raise LocalError("the disk is full")
        self._db.execute("BEGIN")
        try:
            result = finished(body(SqliteSession(self._db, shared=self.shared)))
        except BaseException as error:
            self._db.execute("ROLLBACK")
            if self.shared and isinstance(error, sqlite3.IntegrityError):
                raise Outdated(str(error)) from error
            if isinstance(error, sqlite3.Error):
                raise AssertionError(f"the schema forbids what was wanted: {error}") from error
            raise
        self._db.execute("COMMIT")
        return result

    def add(self, wanted: fx.Store) -> None:
        """What the hub wants kept. Raises LocalError."""
        self.perform(lambda db: storesql.add(db, wanted.leases, wanted.ports, wanted.pairs, wanted.resting))
        self._remember()

    def change(self, change: Change[Any], unix_s: int) -> Any:
        """A transaction of membership, and its answer; `unix_s`: by the relay's clock. Raises NetctlError."""
        outcome = finished(commit(_Here(self), change, unix_s))
        self._remember()
        return outcome

    @property
    def changes(self) -> int:
        """Rows changed so far: with the same number all content is the same."""
        return self._db.total_changes

    def _remember(self) -> None:
        if self.changes == self._remembered:
            return
        self._remembered = self.changes
        self.history.update((network, key, address) for (network, key), address in self.leases().items())

    def leases(self) -> dict[tuple[str, WireGuardKey], IPv4Address]:
        """By network id and key."""
        return self.perform(storesql.leases, writes=False)

    @property
    def by_address(self) -> dict[tuple[str, IPv4Address], WireGuardKey]:
        """Who has which, by network id."""
        return {(network, address): key for (network, key), address in self.leases().items()}

    @property
    def ports(self) -> dict[WireGuardKey, int]:
        """Relay ports by key."""
        return self.perform(storesql.relay_ports, writes=False)

    @property
    def resting(self) -> dict[int, int]:
        """Relay ports that nobody may have yet, and until when (Unix time)."""
        return self.perform(storesql.resting_ports, writes=False)

    def kept(self) -> Kept:
        """All of it."""
        return self.perform(storesql.kept, writes=False)

    def book(self) -> a.Book:
        """Who joined and who was shut out."""
        return self.perform(storesql.book, writes=False)

    def invites(self) -> list[a.Invite]:
        """All that there are."""
        return self.perform(storesql.invites, writes=False)
