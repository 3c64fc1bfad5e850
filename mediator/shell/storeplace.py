"""Opens the store of a state directory, which records that it once had a store.

An empty or missing store must not be replaced silently: every invite, guest, revocation and lease would be lost, and
revoked members would be admitted again. So a store is made only if there never was one, or on explicit request.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from mediator.shell.credentials import belong
from mediator.shell.sqlsession import SqliteSession, finished
from mediator.shell.store import STORE_FILE, DamagedStore, Store, make_store
from mediator.shell.storemark import MOVED, check_place, read_mark
from netctl.model.errors import LocalError
from netctl.system.files import PRIVATE, make_directory, move, write_atomic

MARK_FILE = "had-store"
"""Name of the file that is made with the first store and never removed. It names the store."""
_SAYS = "this server has a store: "
LEFTOVERS = ("", "-wal", "-shm")
NEW_STORE = "--new-store"


def open_store(state: Path, *, new: bool = False) -> Store:
    """Open the store of this state. Makes one if there never was one, or with `new` in place of a lost one.

    The remains of a lost store are set aside. Raises LocalError, with `new` also if the store is sound.
    """
    path = state / STORE_FILE
    if (name := elsewhere(state)) is not None:
        raise LocalError(f"this server's store is {name}: say `netctl-mediator serve --store {name}`")
    trouble = _trouble(state)
    if trouble is not None and not new:
        raise LocalError(
            f"{trouble}, and this server had one: invites, guests, revocations and leases are in it. Put a backup "
            f"in its place (`netctl-mediator restore`), or begin without: `netctl-mediator serve {NEW_STORE}`"
        )
    if new and trouble is None and path.exists():
        Store(path).close()
        raise LocalError(f"{path} is sound, so it is kept; {NEW_STORE} is for a store that is lost")
    try:
        make_directory(state)
        if trouble is not None:
            _set_aside(path)
        if not path.exists():
            make_store(path)
            belong(path)
    except OSError as error:
        raise LocalError(f"cannot make {path}: {error.strerror or error}") from error
    store = Store(path)
    try:
        with store.reading("a look at its place") as db:
            finished(check_place(SqliteSession(db), str(path)))
    except BaseException:
        store.close()
        raise
    with contextlib.suppress(LocalError):  # on a full disk the next start writes it
        if not (state / MARK_FILE).exists():
            note_store(state, STORE_FILE)
    return store


def note_store(state: Path, name: str) -> None:
    """Record the name of this state's store. Raises LocalError."""
    path = state / MARK_FILE
    try:
        write_atomic(path, f"{_SAYS}{name}\n", PRIVATE)
        belong(path)
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror or error}") from error


def elsewhere(state: Path) -> str | None:
    """The name of this state's store in PostgreSQL. None: the store is a file, or there is none yet."""
    try:
        name = (state / MARK_FILE).read_text().removeprefix(_SAYS).strip()
    except (OSError, UnicodeDecodeError):
        return None
    return name if name.startswith("postgresql:") else None


def begin_elsewhere(state: Path, name: str) -> None:
    """Record a store in PostgreSQL before its first use. Raises LocalError if this state has a store in a file."""
    path = state / STORE_FILE
    if path.exists() and path.stat().st_size:
        store = Store(path)
        try:
            with store.reading("a look at its place") as db:
                moved = finished(read_mark(SqliteSession(db))).state == MOVED
        finally:
            store.close()
        if not moved:
            raise LocalError(
                f"this server's store is {path}: take it along with `netctl-mediator store move --to {name}`"
            )
    if elsewhere(state) != name:
        make_directory(state)
        note_store(state, name)


def had_store(state: Path) -> bool:
    """Whether this state has ever had a store."""
    return (state / MARK_FILE).exists() or (state / STORE_FILE).exists()


def _trouble(state: Path) -> str | None:
    """What is wrong with the store's file; None: it is usable, or there never was one."""
    path = state / STORE_FILE
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return f"{path} is missing" if (state / MARK_FILE).exists() else None
    except OSError as error:
        raise LocalError(f"cannot open {path}: {error.strerror}") from error
    if size == 0:
        return f"{path} is empty"
    try:
        Store(path, upgrade=False).close()
    except DamagedStore:
        return f"{path} is damaged"
    except LocalError:
        pass  # of a newer version, or locked: the real opening reports that
    return None


def _set_aside(path: Path) -> None:
    """Rename the remains of a lost store, so that they can be examined."""
    mark = f".lost-{int(time.time())}"
    for end in LEFTOVERS:
        with contextlib.suppress(FileNotFoundError):
            move(path.with_name(path.name + end), path.with_name(path.name + mark + end))
