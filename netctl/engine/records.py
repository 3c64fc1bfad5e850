"""What an engine notes on disk, beside what the kernel keeps for it.

A note is about the kernel's state and dies with it, at a boot. So where the disk has no room or cannot be written, the
note is kept in /run for as long, and a full disk keeps no network down. A note in /run is the newer one.
"""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

from netctl.model.errors import EngineError
from netctl.system import statefiles
from netctl.system.files import remove, write_atomic

MEANWHILE = Path("/run/netctl/records")
"""Root's alone, and empty after a boot."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def _meanwhile(path: Path) -> Path:
    return MEANWHILE / str(path.absolute()).strip("/").replace("/", "-")


def keep(path: Path, text: str, *, generations_too: bool = False) -> None:
    """Note it, whole or not at all. Raises EngineError, for which an apply is rolled back.

    `generations_too`: nothing else knows it, so a checksum and the note before are kept beside it.
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
    """What was noted last. Raises OSError, of which FileNotFoundError, or UnicodeDecodeError."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        return _meanwhile(path).read_text()
    text = statefiles.read(path).text
    if text is None:
        raise FileNotFoundError(errno.ENOENT, "there is no note, or none that is whole", str(path))
    return text


def is_kept(path: Path) -> bool:
    """Whether there is a note."""
    return path.exists() or _meanwhile(path).exists()


def forget(path: Path) -> None:
    """Remove the note; no error when there is none. Raises EngineError."""
    try:
        remove(path)
        with contextlib.suppress(PermissionError):
            _meanwhile(path).unlink(missing_ok=True)
    except OSError as error:
        raise EngineError(f"cannot remove {path}: {error.strerror}") from error
