"""What must outlive the process, in SQLite: leases, relay ports, and (`admissionstore.py`) who joined by invite.

Uniqueness is the database's own business.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

from mediator.core.leasegrants import GrantLease
from mediator.core.pairs import PairGrant
from mediator.core.relay_grants import GRANT_TTL_S
from mediator.shell.pairstore import PAIRS, read_pairs, write_pairs
from netctl.model.errors import LocalError
from netctl.model.keys import WireGuardKey
from netctl.system.files import PRIVATE, create, make_directory, move

LEASES = """
CREATE TABLE lease (
  network TEXT NOT NULL,
  address INTEGER NOT NULL,
  member BLOB NOT NULL,
  PRIMARY KEY (network, address),
  UNIQUE (network, member)
) STRICT, WITHOUT ROWID;
CREATE TABLE relay_port (
  member BLOB PRIMARY KEY,
  port INTEGER NOT NULL UNIQUE
) STRICT, WITHOUT ROWID;
"""
INVITES = """
CREATE TABLE invite (
  id TEXT PRIMARY KEY,
  hash BLOB NOT NULL UNIQUE,
  network TEXT NOT NULL,
  uses INTEGER NOT NULL,
  used INTEGER NOT NULL DEFAULT 0 CHECK (used <= uses),
  made_s INTEGER NOT NULL,
  expires_s INTEGER NOT NULL,
  revoked INTEGER NOT NULL DEFAULT 0,
  name TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
CREATE TABLE guest (
  member BLOB PRIMARY KEY,
  identity BLOB NOT NULL UNIQUE,
  name TEXT NOT NULL UNIQUE
) STRICT, WITHOUT ROWID;
CREATE TABLE admission (
  network TEXT NOT NULL,
  member BLOB NOT NULL REFERENCES guest (member) ON UPDATE CASCADE ON DELETE CASCADE,
  invite TEXT NOT NULL,
  pending INTEGER NOT NULL,
  joined_s INTEGER NOT NULL,
  PRIMARY KEY (network, member)
) STRICT, WITHOUT ROWID;
CREATE TABLE revoked (
  member BLOB PRIMARY KEY,
  name TEXT NOT NULL,
  at_s INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""
GENERATION = """
CREATE TABLE generation (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  reserved INTEGER NOT NULL
) STRICT;
"""
RESTING = """
CREATE TABLE resting_port (
  port INTEGER PRIMARY KEY,
  until_s INTEGER NOT NULL
) STRICT;
"""
MIGRATIONS = (LEASES, INVITES, GENERATION, PAIRS, RESTING)
"""One step a version: a store of an older netctl is brought up to date where it lies."""
STORE_FILE = "mediator.db"
BUSY_S = 5.0
"""Of ours, only `netctl-mediator backup` or `check` can hold the database, and only for moments."""


def write_leases(db: sqlite3.Connection, leases: Iterable[GrantLease]) -> None:
    """Grant leases within a transaction; a member's older one in the network is given up."""
    for lease in leases:
        for key in (lease.key, lease.taken_from):
            if key is not None:
                db.execute("DELETE FROM lease WHERE network=? AND member=?", (lease.network, key.raw))
        row = (lease.network, int(lease.address), lease.key.raw)
        db.execute("INSERT INTO lease (network, address, member) VALUES (?,?,?)", row)


def read_leases(db: sqlite3.Connection) -> dict[tuple[str, WireGuardKey], IPv4Address]:
    """Every lease ever granted and not moved since, by network id and key."""
    rows = db.execute("SELECT network, member, address FROM lease")
    return {(network, WireGuardKey(member)): IPv4Address(address) for network, member, address in rows}


def rest_port(db: sqlite3.Connection, key: WireGuardKey, now_s: int) -> None:
    """Within a transaction: a member gives its relay port up, and it rests as long as a grant for it can live."""
    db.execute("DELETE FROM resting_port WHERE until_s <= ?", (now_s,))
    db.execute(
        "INSERT OR REPLACE INTO resting_port (port, until_s) SELECT port, ? FROM relay_port WHERE member=?",
        (now_s + GRANT_TTL_S, key.raw),
    )
    db.execute("DELETE FROM relay_port WHERE member=?", (key.raw,))


NO_ROOM = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
)
"""Primary codes of what a full or read-only disk leads to, where SQLite needs a file beside the store to read it."""


class DamagedStore(LocalError):
    """The file is no store of ours, or none any more."""


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=BUSY_S, check_same_thread=False)


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring it up to date where it lies. Raises LocalError, or what SQLite raises."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise LocalError(f"{path} was written by another version of netctl (schema {version})")
    for number, step in enumerate(MIGRATIONS[version:], version + 1):
        db.executescript(f"BEGIN;{step}PRAGMA user_version={number};COMMIT;")


def make_store(path: Path) -> None:
    """A new, empty store: whole or not there. Raises LocalError or OSError."""
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.unlink(missing_ok=True)
        create(beside, b"", PRIVATE)  # SQLite would make it by the umask
        with contextlib.closing(_connect(beside)) as db:
            _migrate(db, path)
        move(beside, path)
    except sqlite3.Error as error:
        raise LocalError(f"cannot make {path}: {error}; is there room on its disk?") from error
    finally:
        for end in ("", "-journal"):
            beside.with_name(beside.name + end).unlink(missing_ok=True)


def _for_the_owner_alone(path: Path) -> None:
    """It says who is a member and who was shut out. Files beside it get the mode that it has from SQLite."""
    for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
        with contextlib.suppress(OSError):  # it is not there, or the disk is read-only
            if file.stat().st_mode & 0o077:
                file.chmod(PRIVATE)


class Store:
    """One writer. Every method is one transaction; what returned is on disk."""

    def __init__(self, path: Path, *, upgrade: bool = True) -> None:
        """Open or make the store; with `upgrade` False only look at it, as it is.

        On a disk without room it is read into memory and takes nothing, until there is room. Raises LocalError for
        one that is damaged or from a newer version.
        """
        self._path = path
        self._upgrade = upgrade
        self.takes_nothing: str | None = None
        """Why nothing can be written just now."""
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
        """Raises LocalError, or what a disk without room raises."""
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
        """A copy, read without a file beside the store: locked for ourselves, SQLite keeps its index in memory."""
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
        """From memory to the disk, where that has room again. Raises LocalError."""
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

    def leases(self) -> dict[tuple[str, WireGuardKey], IPv4Address]:
        """Every lease ever granted and not moved since, by network id and key."""
        return read_leases(self._db)

    def relay_ports(self) -> dict[WireGuardKey, int]:
        """Relay ports by key."""
        rows = self._db.execute("SELECT member, port FROM relay_port")
        return {WireGuardKey(member): port for member, port in rows}

    def resting_ports(self) -> dict[int, int]:
        """Relay ports that were given up, and until when (Unix time) nobody else may have them."""
        return dict(self._db.execute("SELECT port, until_s FROM resting_port").fetchall())

    def pairs(self) -> list[PairGrant]:
        """Every pair with a stock app that has a relay port, wanted now or not."""
        return read_pairs(self._db)

    def add(
        self,
        leases: Iterable[GrantLease],
        ports: Iterable[tuple[WireGuardKey, int]],
        pairs: Iterable[PairGrant] = (),
        resting: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Grant leases and ports in one transaction; a member's older lease in the network is given up.

        `resting`: relay ports that are given up, and until when (Unix time) nobody else may have them.
        Raises LocalError, and grants nothing, when one of them is taken or the disk is full.
        """
        with self.transaction("new leases") as db:
            write_leases(db, leases)
            for member, port in ports:
                db.execute("DELETE FROM relay_port WHERE member=?", (member.raw,))
                db.execute("INSERT INTO relay_port (member, port) VALUES (?,?)", (member.raw, port))
            write_pairs(db, pairs)
            db.executemany("INSERT OR REPLACE INTO resting_port (port, until_s) VALUES (?,?)", resting)

    def generation(self) -> int:
        """What the next run's generations must not be below."""
        row = self._db.execute("SELECT reserved FROM generation").fetchone()
        return int(row[0]) if row is not None else 0

    def reserve_generation(self, reserved: int) -> None:
        """From here on generations up to this one may be in use. Raises LocalError."""
        with self.transaction("the next generations") as db:
            db.execute("INSERT OR REPLACE INTO generation (one, reserved) VALUES (1,?)", (reserved,))

    def wait_at_most(self, seconds: float) -> None:
        """How long a transaction waits for another process's, from now on."""
        self._db.execute(f"PRAGMA busy_timeout={max(0, int(seconds * 1000))}")

    @contextlib.contextmanager
    def reading(self, what: str) -> Iterator[sqlite3.Connection]:
        """Reads that see one moment. They wait for no writer. Raises LocalError."""
        with self._one("BEGIN", what) as db:
            yield db

    @contextlib.contextmanager
    def transaction(self, what: str) -> Iterator[sqlite3.Connection]:
        """Reads and writes that are one: all of it is on disk afterwards, or none. Raises LocalError."""
        if self.takes_nothing is not None:
            self._try_again()
        with self._one("BEGIN IMMEDIATE", what) as db:
            yield db

    @contextlib.contextmanager
    def _one(self, begin: str, what: str) -> Iterator[sqlite3.Connection]:
        try:
            self._db.execute(begin)
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk may have ended it already
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise LocalError(f"the store refused {what}: {error}") from error

    def check(self) -> list[str]:
        """What SQLite finds wrong with the file; empty when it is sound."""
        try:
            return [row[0] for row in self._db.execute("PRAGMA integrity_check") if row[0] != "ok"]
        except sqlite3.DatabaseError as error:  # too damaged to be looked at
            return [str(error)]
