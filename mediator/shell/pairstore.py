"""Ports of pairs on disk, and how the relay, a process of its own, hears of them: it reads the same store."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from mediator.core.pairs import HIGH, LOW, PairGrant
from mediator.core.relay_pairs import PairMember, PairPort, PairTable
from netctl.model.keys import WireGuardKey

PAIRS = """
CREATE TABLE relay_pair (
  low BLOB NOT NULL,
  high BLOB NOT NULL,
  port INTEGER NOT NULL UNIQUE,
  apps INTEGER NOT NULL,
  PRIMARY KEY (low, high)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER pair_port_is_free BEFORE INSERT ON relay_pair
WHEN EXISTS (SELECT 1 FROM relay_port WHERE port = NEW.port)
BEGIN SELECT RAISE(ABORT, 'the port is a member''s'); END;
CREATE TRIGGER member_port_is_free BEFORE INSERT ON relay_port
WHEN EXISTS (SELECT 1 FROM relay_pair WHERE port = NEW.port)
BEGIN SELECT RAISE(ABORT, 'the port is a pair''s'); END;
"""
READ_TIMEOUT_S = 0.05
"""The relay waits for no writer: it looks again soon."""


def write_pairs(db: sqlite3.Connection, pairs: Iterable[PairGrant]) -> None:
    """Within a transaction."""
    for grant in pairs:
        for pair in (grant.pair, grant.taken_from):
            if pair is not None:
                db.execute("DELETE FROM relay_pair WHERE low=? AND high=?", (pair[0].raw, pair[1].raw))
        row = (grant.pair[0].raw, grant.pair[1].raw, grant.port, grant.apps)
        db.execute("INSERT INTO relay_pair (low, high, port, apps) VALUES (?,?,?,?)", row)


def read_pairs(db: sqlite3.Connection) -> list[PairGrant]:
    """Every pair that has a port."""
    rows = db.execute("SELECT low, high, port, apps FROM relay_pair ORDER BY port")
    return [PairGrant((WireGuardKey(low), WireGuardKey(high)), port, apps) for low, high, port, apps in rows]


class PairReader:
    """The relay's look into the mediator's store. It writes nothing, and a store that is not there yet is empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._seen: tuple[int, int] | None = None

    def changed(self) -> list[PairPort] | None:
        """All pairs that are wanted, if something was written since the last time. None: nothing, or no telling."""
        try:
            file = self._path.stat().st_ino
            if self._db is None or self._seen is None or self._seen[0] != file:
                self.close()
                self._db = sqlite3.connect(
                    f"{self._path.absolute().as_uri()}?mode=rw",
                    uri=True,
                    timeout=READ_TIMEOUT_S,
                    isolation_level=None,
                    check_same_thread=False,
                )
            version = (file, self._db.execute("PRAGMA data_version").fetchone()[0])
            if version == self._seen:
                return None
            pairs = self._read(self._db)
        except (OSError, sqlite3.Error):
            self.close()
            return None
        self._seen = version
        return pairs

    def tell(self, table: PairTable, now: float) -> None:
        """Bring the relay's table to what the store says, if that has changed."""
        pairs = self.changed()
        if pairs is not None:
            table.load(pairs, now)

    def close(self) -> None:
        """Let go of the store."""
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
        self._db = self._seen = None

    @staticmethod
    def _read(db: sqlite3.Connection) -> list[PairPort]:
        db.execute("BEGIN")
        try:
            pairs = [grant for grant in read_pairs(db) if grant.apps]
            if not pairs:
                return []
            ports = dict(db.execute("SELECT member, port FROM relay_port").fetchall())
        finally:
            db.execute("COMMIT")
        return [
            PairPort(
                grant.port,
                (
                    PairMember(grant.pair[0], ports.get(grant.pair[0].raw, 0), bool(grant.apps & LOW)),
                    PairMember(grant.pair[1], ports.get(grant.pair[1].raw, 0), bool(grant.apps & HIGH)),
                ),
            )
            for grant in pairs
        ]
