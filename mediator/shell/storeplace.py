"""The store's place in the state directory, which remembers that it had one.

An empty or missing store is no new one: who starts with it has lost every invite, guest, revocation and lease, and
members that were shut out are in again. So a store is made only where there never was one, or where somebody says so.
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
"""Made with the first store, and never removed. It says which store that is."""
_SAYS = "this server has a store: "
LEFTOVERS = ("", "-wal", "-shm")
NEW_STORE = "--new-store"


def open_store(state: Path, *, new: bool = False) -> Store:
    """The store of this state; a new one where there never was one, or with `new` in the place of a lost one.

    What is left of the lost one is set aside. Raises LocalError, with `new` also for a store that is sound.
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
    with contextlib.suppress(LocalError):  # on a full disk the next start does it
        if not (state / MARK_FILE).exists():
            note_store(state, STORE_FILE)
    return store


def note_store(state: Path, name: str) -> None:
    """This is where the store of this state is from now on. Raises LocalError."""
    path = state / MARK_FILE
    try:
        write_atomic(path, f"{_SAYS}{name}\n", PRIVATE)
        belong(path)
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror or error}") from error


def elsewhere(state: Path) -> str | None:
    """The name of the store that this state has in PostgreSQL. None: it has a file, or none yet."""
    try:
        name = (state / MARK_FILE).read_text().removeprefix(_SAYS).strip()
    except (OSError, UnicodeDecodeError):
        return None
    return name if name.startswith("postgresql:") else None


def begin_elsewhere(state: Path, name: str) -> None:
    """Before the store in PostgreSQL is used. Raises LocalError where this state has a store in a file."""
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
    """Whether a mediator of this state has ever had a store."""
    return (state / MARK_FILE).exists() or (state / STORE_FILE).exists()


def _trouble(state: Path) -> str | None:
    """What has become of the store that there was; None: it is there, or there never was one."""
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
        pass  # of a newer version, or locked: whoever opens it for good says so
    return None


def _set_aside(path: Path) -> None:
    """Keep what is left of a lost store, for whoever can make something of it."""
    mark = f".lost-{int(time.time())}"
    for end in LEFTOVERS:
        with contextlib.suppress(FileNotFoundError):
            move(path.with_name(path.name + end), path.with_name(path.name + mark + end))
