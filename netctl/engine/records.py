"""Records on disk of the engine's objects in the kernel.

A record is about the kernel's state, which is lost at a boot. So where the disk is full or read-only, the record is
kept in /run until then, and a full disk keeps no network down. A record in /run is newer than one on disk.
"""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

from netctl.model.errors import EngineError
from netctl.system import statefiles
from netctl.system.files import remove, write_atomic

MEANWHILE = Path("/run/netctl/records")
"""The directory for records while the disk is full: private to root, and empty after a boot."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def _meanwhile(path: Path) -> Path:
    return MEANWHILE / str(path.absolute()).strip("/").replace("/", "-")


def keep(path: Path, text: str, *, generations_too: bool = False) -> None:
    """Write a record, whole or not at all. Raises EngineError, upon which an apply is rolled back.

    `generations_too`: the data exists nowhere else, so a checksum and the former record are kept, too.
    """
    try:
        if generations_too:
            statefiles.write(path, text)
        else:
            write_atomic(path, text)
    except OSError as error:
        if error.errno in NO_ROOM:
            with contextlib.suppress(OSError):
                write_atomic(_meanwhile(path), text)
                return
        raise EngineError(f"cannot write {path}: {error.strerror}") from error
    with contextlib.suppress(OSError):
        _meanwhile(path).unlink(missing_ok=True)


def kept(path: Path) -> str:
    """The last record. Raises OSError (FileNotFoundError without one), or UnicodeDecodeError."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        return _meanwhile(path).read_text()
    text = statefiles.read(path).text
    if text is None:
        raise FileNotFoundError(errno.ENOENT, "there is no note, or none that is whole", str(path))
    return text


def is_kept(path: Path) -> bool:
    """Whether there is a record."""
    return path.exists() or _meanwhile(path).exists()


def forget(path: Path) -> None:
    """Remove a record; a missing one is no error. Raises EngineError."""
    try:
        remove(path)
        with contextlib.suppress(PermissionError):
            _meanwhile(path).unlink(missing_ok=True)
    except OSError as error:
        raise EngineError(f"cannot remove {path}: {error.strerror}") from error
