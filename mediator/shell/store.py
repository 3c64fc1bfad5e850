"""What must outlive the process: leases and relay ports, in SQLite. Uniqueness is the database's business."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path

from mediator.core.leases import GrantLease
from netctl.model.errors import LocalError
from netctl.model.keys import WireGuardKey

SCHEMA_VERSION = 1
SCHEMA = """
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
BUSY_S = 5.0
"""Only `netctl-mediator backup` or `check` can hold the database, and only for moments."""


class Store:
    """One writer. Every method is one transaction; what returned is on disk."""

    def __init__(self, path: Path) -> None:
        """Open or make the store. Raises LocalError for one that is damaged or from a newer version."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_S, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._db.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")
            elif version != SCHEMA_VERSION:
                raise LocalError(f"{path} was written by another version of netctl (schema {version})")
        except sqlite3.DatabaseError as error:
            raise LocalError(f"{path} is no usable store ({error}); restore it from a backup") from error
        except OSError as error:
            raise LocalError(f"cannot open {path}: {error.strerror}") from error

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def leases(self) -> dict[tuple[str, WireGuardKey], IPv4Address]:
        """Every lease ever granted and not moved since, by network id and key."""
        rows = self._db.execute("SELECT network, member, address FROM lease")
        return {(network, WireGuardKey(member)): IPv4Address(address) for network, member, address in rows}

    def relay_ports(self) -> dict[WireGuardKey, int]:
        """Relay ports by key."""
        rows = self._db.execute("SELECT member, port FROM relay_port")
        return {WireGuardKey(member): port for member, port in rows}

    def add(self, leases: Iterable[GrantLease], ports: Iterable[tuple[WireGuardKey, int]]) -> None:
        """Grant leases and ports in one transaction; a member's older lease in the network is given up.

        Raises LocalError, and grants nothing, when one of them is taken or the disk is full.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for lease in leases:
                    key = (lease.network, lease.key.raw)
                    self._db.execute("DELETE FROM lease WHERE network=? AND member=?", key)
                    if lease.taken_from is not None:
                        gone = (lease.network, lease.taken_from.raw)
                        self._db.execute("DELETE FROM lease WHERE network=? AND member=?", gone)
                    row = (lease.network, int(lease.address), lease.key.raw)
                    self._db.execute("INSERT INTO lease (network, address, member) VALUES (?,?,?)", row)
                for member, port in ports:
                    self._db.execute("DELETE FROM relay_port WHERE member=?", (member.raw,))
                    self._db.execute("INSERT INTO relay_port (member, port) VALUES (?,?)", (member.raw, port))
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise LocalError(f"the store refused new leases: {error}") from error

    def check(self) -> list[str]:
        """What SQLite finds wrong with the file; empty when it is sound."""
        return [row[0] for row in self._db.execute("PRAGMA integrity_check") if row[0] != "ok"]
