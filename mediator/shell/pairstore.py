"""Gives the relay, a separate process, the ports of pairs: it reads the mediator's store."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Protocol

from mediator.core.hub import Hub
from mediator.core.pairs import pair_ports
from mediator.core.relay_pairs import PairPort, PairTable
from mediator.shell import storesql
from mediator.shell.sqlsession import SqliteSession, finished

READ_TIMEOUT_S = 0.05
"""The relay does not wait for a writer: it reads again soon."""


class PairSource(Protocol):
    """A source of the ports of pairs that the relay must serve."""

    def changed(self) -> list[PairPort] | None:
        """All wanted pairs, if they have changed since the last call. None: unchanged, or unreadable."""

    def close(self) -> None:
        """Close the source."""


class HubPairs:
    """The pairs of the mediator's hub, for a store that the relay cannot read."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._seen: list[PairPort] | None = None
        self._revision = -1

    def changed(self) -> list[PairPort] | None:
        """Of `PairSource`."""
        if self._hub.revision == self._revision:
            return None
        self._revision = self._hub.revision
        found = self._hub.pair_ports()
        if found == self._seen:
            return None
        self._seen = found
        return found

    def close(self) -> None:
        """Of `PairSource`."""


class PairReader:
    """Reads the pairs from the mediator's store, read-only. A missing store counts as empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._seen: tuple[int, int] | None = None

    def changed(self) -> list[PairPort] | None:
        """All wanted pairs, if the store was written since the last call. None: not written, or unreadable."""
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
        """Load changed pairs into the relay's table."""
        pairs = self.changed()
        if pairs is not None:
            table.load(pairs, now)

    def close(self) -> None:
        """Close the store."""
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
        self._db = self._seen = None

    @staticmethod
    def _read(db: sqlite3.Connection) -> list[PairPort]:
        db.execute("BEGIN")
        try:
            session = SqliteSession(db)
            pairs = [grant for grant in finished(storesql.pairs(session)) if grant.apps]
            if not pairs:
                return []
            ports = finished(storesql.relay_ports(session))
        finally:
            db.execute("COMMIT")
        return pair_ports(pairs, ports)
