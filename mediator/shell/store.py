"""The store in SQLite: one file, one writer. The transactions themselves are in `storesql.py`."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

from mediator.core.leasegrants import GrantLease
from mediator.core.pairs import PairGrant
from mediator.core.transactions import Outdated
from mediator.shell import storesql
from mediator.shell.sqlsession import SqliteSession, finished
from mediator.shell.storemark import check_place
from mediator.shell.storeschema import MIGRATIONS
from mediator.shell.storesql import Body
from netctl.model.errors import LocalError
from netctl.model.keys import WireGuardKey
from netctl.system.files import PRIVATE, create, make_directory, move

T = TypeVar("T")

STORE_FILE = "mediator.db"
BUSY_S = 5.0
"""Of our programs, only `netctl-mediator backup` or `check` can hold the database, and only for moments."""


NO_ROOM = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
)
"""Primary result codes of a full or read-only disk, as SQLite needs a file beside the store to read it."""
TAKEN = frozenset(
    {
        sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
        sqlite3.SQLITE_CONSTRAINT_UNIQUE,
        sqlite3.SQLITE_CONSTRAINT_TRIGGER,
    }
)
"""Extended codes of what somebody else has already."""


class DamagedStore(LocalError):
    """The file is not a store, or is damaged."""


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=BUSY_S, check_same_thread=False)


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    """Update the schema in place. Raises LocalError and SQLite's errors."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise LocalError(f"{path} was written by another version of netctl (schema {version})")
    for number, step in enumerate(MIGRATIONS[version:], version + 1):
        db.executescript(f"BEGIN;{step}PRAGMA user_version={number};COMMIT;")


def make_store(path: Path) -> None:
    """Make a new, empty store, completely or not at all. Raises LocalError or OSError."""
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.unlink(missing_ok=True)
        create(beside, b"", PRIVATE)  # SQLite would use the umask for the mode
        with contextlib.closing(_connect(beside)) as db:
            _migrate(db, path)
        move(beside, path)
    except sqlite3.Error as error:
        raise LocalError(f"cannot make {path}: {error}; is there room on its disk?") from error
    finally:
        for end in ("", "-journal"):
            beside.with_name(beside.name + end).unlink(missing_ok=True)


def _for_the_owner_alone(path: Path) -> None:
    """Let only the owner read the store, as it lists members and revocations. SQLite gives its side files that mode."""
    for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
        with contextlib.suppress(OSError):  # missing, or the disk is read-only
            if file.stat().st_mode & 0o077:
                file.chmod(PRIVATE)


class Store:
    """A store with one writer. Every method is one transaction, which is on disk when it returns."""

    def __init__(self, path: Path, *, upgrade: bool = True) -> None:
        """Open or make the store; `upgrade` False: only read it as it is.

        On a full disk the store is read into memory and accepts no writes until there is room. Raises LocalError if it
        is damaged or from a newer version.
        """
        self._path = path
        self._upgrade = upgrade
        self.takes_nothing: str | None = None
        """Why nothing can be written now; None: writes are possible."""
        self._waits: tuple[sqlite3.Connection, int] | None = None
        """A connection, and the tenths of a second that its transactions wait for others."""
        try:
            if upgrade and not path.exists():
                make_directory(path.parent)
                make_store(path)
            if upgrade:
                _for_the_owner_alone(path)
            self._db = _connect(path)
        except sqlite3.Error as error:
            raise LocalError(f"cannot open {path}: {error}") from error
        except OSError as error:
            raise LocalError(f"cannot open {path}: {error.strerror}") from error
        try:
            self._prepare(self._db)
        except sqlite3.OperationalError as error:
            self._db.close()
            if error.sqlite_errorcode & 0xFF not in NO_ROOM:
                raise LocalError(f"cannot open {path}: {error}") from error
            self._db = self._in_memory(error)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Check and update the schema. Raises LocalError, or SQLite's error for a full disk."""
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA foreign_keys=ON")
            if not db.execute("PRAGMA user_version").fetchone()[0]:
                raise sqlite3.DatabaseError("there is nothing of ours in it")
            if self._upgrade:
                _migrate(db, self._path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise DamagedStore(
                f"{self._path} is no usable store ({error}); restore it from a backup"
            ) from error

    def _in_memory(self, why: sqlite3.OperationalError) -> sqlite3.Connection:
        """A copy in memory, read without side files: with an exclusive lock SQLite keeps its index in memory."""
        memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        try:
            with contextlib.closing(_connect(self._path)) as db:
                db.execute("PRAGMA locking_mode=EXCLUSIVE")
                db.backup(memory)
            memory.execute("PRAGMA foreign_keys=ON")
            _migrate(memory, self._path)
        except sqlite3.Error as error:
            memory.close()
            raise LocalError(f"cannot open {self._path}: {error}; is there room on its disk?") from error
        except BaseException:
            memory.close()
            raise
        self.takes_nothing = f"{self._path} cannot be written ({why}): is its disk full?"
        return memory

    def _try_again(self) -> None:
        """Return from memory to the disk if that has room again. Raises LocalError."""
        try:
            db = _connect(self._path)
        except sqlite3.Error as error:
            raise LocalError(f"cannot open {self._path}: {error}") from error
        try:
            self._prepare(db)
        except sqlite3.OperationalError as error:
            db.close()
            raise LocalError(str(self.takes_nothing)) from error
        except BaseException:
            db.close()
            raise
        self._db.close()
        self._db, self.takes_nothing = db, None

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def perform(self, what: str, body: Body[T], *, writes: bool = True) -> T:
        """Run one transaction. Raises LocalError, or the body's exceptions."""
        if writes and self.takes_nothing is not None:
            self._try_again()
        with self._one("BEGIN IMMEDIATE" if writes else "BEGIN", what) as db:
            session = SqliteSession(db)
            if writes:
                finished(check_place(session, str(self._path)))
            return finished(body(session))

    def leases(self) -> dict[tuple[str, WireGuardKey], IPv4Address]:
        """Every lease ever granted and not moved since, by network id and key."""
        return self.perform("a look at its leases", storesql.leases, writes=False)

    def relay_ports(self) -> dict[WireGuardKey, int]:
        """Relay ports by key."""
        return self.perform("a look at its ports", storesql.relay_ports, writes=False)

    def resting_ports(self) -> dict[int, int]:
        """Relay ports that were given up, and until when (Unix time) nobody else may have them."""
        return self.perform("a look at its ports", storesql.resting_ports, writes=False)

    def pairs(self) -> list[PairGrant]:
        """Every pair with a stock app that has a relay port, wanted now or not."""
        return self.perform("a look at its pairs", storesql.pairs, writes=False)

    def generation(self) -> int:
        """The lowest generation of the next run."""
        return self.perform("a look at its generation", storesql.generation, writes=False)

    def add(
        self,
        leases: Iterable[GrantLease],
        ports: Iterable[tuple[WireGuardKey, int]],
        pairs: Iterable[PairGrant] = (),
        resting: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Grant leases and ports in one transaction; a member's older lease in the network is removed.

        `resting`: given-up relay ports with the Unix time until which nobody else may have them.
        Raises LocalError and grants nothing if one of them is taken or the disk is full.
        """
        self.perform("new leases", lambda db: storesql.add(db, leases, ports, pairs, resting))

    def reserve_generation(self, reserved: int) -> None:
        """Record that generations up to this one may be in use from now on. Raises LocalError."""
        self.perform("the next generations", lambda db: storesql.reserve_generation(db, reserved))

    def wait_at_most(self, seconds: float) -> None:
        """Set how long a transaction waits for one of another process, to a tenth of a second."""
        tenths = max(0, int(seconds * 10))
        if self._waits != (self._db, tenths):  # hardly any waits for less than the one before
            self._db.execute(f"PRAGMA busy_timeout={tenths * 100}")
            self._waits = self._db, tenths

    @contextlib.contextmanager
    def reading(self, what: str) -> Iterator[sqlite3.Connection]:
        """Consistent reads, which wait for no writer. Raises LocalError."""
        with self._one("BEGIN", what) as db:
            yield db

    @contextlib.contextmanager
    def transaction(self, what: str, *, anyway: bool = False) -> Iterator[sqlite3.Connection]:
        """Reads and writes as one transaction: afterwards all of it is on disk, or none. Raises LocalError.

        `anyway`: also in a store that is not in force.
        """
        if self.takes_nothing is not None:
            self._try_again()
        with self._one("BEGIN IMMEDIATE", what) as db:
            if not anyway:
                finished(check_place(SqliteSession(db), str(self._path)))
            yield db

    @contextlib.contextmanager
    def _one(self, begin: str, what: str) -> Iterator[sqlite3.Connection]:
        try:
            self._db.execute(begin)
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk may have ended the transaction already
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            taken = isinstance(error, sqlite3.IntegrityError) and error.sqlite_errorcode in TAKEN
            raise (Outdated if taken else LocalError)(f"the store refused {what}: {error}") from error

    def check(self) -> list[str]:
        """The faults that SQLite finds in the file; empty: it is sound."""
        try:
            return [row[0] for row in self._db.execute("PRAGMA integrity_check") if row[0] != "ok"]
        except sqlite3.DatabaseError as error:  # too damaged for the check
            return [str(error)]
