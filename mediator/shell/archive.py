"""`netctl-mediator backup` and `restore`: the whole state in one file (tar, readable by its owner only).

SQLite's online backup copies the store, so the server may run meanwhile. The backup contains the identity, without
which no member would accept the restored server, and the relay's secret. So the file is as secret as the state.

A backup lacks the relay ports that were granted after it. So a restored server makes a new secret, and earlier grants
are not valid at its relay: members get new ones.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import tarfile
import tempfile
import time
from pathlib import Path

from mediator.core.generations import clock_is_behind, written_s
from mediator.shell.admin import SOCKET_NAME
from mediator.shell.asking import ask_mediator
from mediator.shell.credentials import IDENTITY_FILE, RELAY_SECRET_FILE, SECRET_LEN, Identity, belong
from mediator.shell.store import STORE_FILE, Store
from mediator.shell.storeplace import elsewhere
from netctl.model.errors import LocalError
from netctl.system.files import create, move, replacing
from netctl.wire import operatorrequests as r

NAMES = (STORE_FILE, IDENTITY_FILE, RELAY_SECRET_FILE)
MAX_MEMBER = 1 << 30
"""Most bytes of one file in a backup: a store of a million leases has a tenth of it."""


def backup(state: Path, target: Path, *, force: bool = False) -> int:
    """Write the state to `target`, completely or not at all; returns its size in bytes. Raises LocalError."""
    if target.exists() and not force:
        raise LocalError(f"{target} exists already: name another file, or say --force")
    if (name := elsewhere(state)) is not None:
        raise LocalError(
            f"this server's store is {name}, which has its own backup (pg_dump); beside that keep {IDENTITY_FILE} and "
            f"{RELAY_SECRET_FILE} of {state}"
        )
    missing = [name for name in NAMES if not (state / name).exists()]
    if missing:
        raise LocalError(f"{state} is no state of a mediator: {', '.join(missing)} missing")
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".netctl-backup-") as name:
            copy = Path(name, STORE_FILE)
            _copy_store(state / STORE_FILE, copy)
            with replacing(target, over=force) as file:
                with tarfile.open(fileobj=file, mode="w") as tar:
                    tar.add(copy, STORE_FILE)
                    for part in NAMES[1:]:
                        tar.add(state / part, part)
                size: int = file.tell()
    except OSError as error:
        raise LocalError(f"cannot write {target}: {error.strerror or error}") from error
    return size


def _copy_store(source: Path, target: Path) -> None:
    try:
        with (
            contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old,
            contextlib.closing(sqlite3.connect(target)) as new,
        ):
            old.backup(new)
    except sqlite3.Error as error:
        raise LocalError(
            f"{source} cannot be copied ({error}); `netctl-mediator check` looks at it"
        ) from error
    problems = _problems(target)
    if problems:
        raise LocalError(f"{source} is damaged ({problems[0]}): nothing was written")


def _problems(path: Path) -> list[str]:
    store = Store(path)
    try:
        return store.check()
    finally:
        store.close()


def restore(state: Path, source: Path, *, force: bool = False) -> None:
    """Replace the state by a backup. Raises LocalError without any change if that is not allowed or not possible."""
    if _is_running(state):
        raise LocalError("a mediator runs on this state: stop it first")
    if any((state / name).exists() for name in NAMES) and not force:
        raise LocalError(f"{state} has a state already: --force replaces it")
    parts = _read(source)
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=state, prefix=".restore-") as name:
            parts[RELAY_SECRET_FILE] = secrets.token_bytes(SECRET_LEN)
            for part, data in parts.items():
                create(Path(name, part), data)
            problems = _problems(Path(name, STORE_FILE))
            if problems:
                raise LocalError(f"the store in {source} is damaged: {problems[0]}")
            _check_clock(Path(name, STORE_FILE))
            Identity.load(Path(name))
            for leftover in ("-wal", "-shm"):
                (state / (STORE_FILE + leftover)).unlink(missing_ok=True)
            for part in NAMES:
                move(Path(name, part), state / part)
                belong(state / part)
    except OSError as error:
        raise LocalError(f"cannot write to {state}: {error.strerror or error}") from error


def _check_clock(store_file: Path) -> None:
    """Raise LocalError if the clock is behind the store: after a restore only the clock keeps generations rising."""
    store = Store(store_file)
    try:
        reserved = store.generation()
    finally:
        store.close()
    if clock_is_behind(int(time.time()), reserved):
        made = time.strftime("%Y-%m-%d", time.gmtime(written_s(reserved)))
        raise LocalError(
            f"this machine's clock says {time.strftime('%Y-%m-%d')}, but the backup was made about {made}: "
            "set the clock first, or members will refuse this server"
        )


def _read(source: Path) -> dict[str, bytes]:
    parts = {}
    try:
        with tarfile.open(source, "r:") as tar:
            for name in NAMES:
                entry = tar.getmember(name)
                if not entry.isfile() or entry.size > MAX_MEMBER:
                    raise LocalError(f"{source} is no backup of a mediator: {name} is no plain file")
                file = tar.extractfile(entry)
                parts[name] = file.read() if file is not None else b""
    except OSError as error:
        raise LocalError(f"cannot read {source}: {error.strerror or error}") from error
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise LocalError(f"{source} is no backup of a mediator: {str(error).strip(chr(34))}") from error
    return parts


def _is_running(state: Path) -> bool:
    if not (state / SOCKET_NAME).exists():
        return False
    try:
        ask_mediator(state, r.ServerStatusRequest())
    except LocalError:
        return False
    return True
