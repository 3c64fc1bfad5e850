"""Writes files, as the only module that does: whole or not at all, and private from the first byte.

Another user who can guess a file's name could create the file first and keep it open, to read what root writes, or
plant a symlink, so that root writes elsewhere. So a new file is created in the target's directory with O_EXCL, under a
name with 128 random bits. It gets its owner and mode before its first byte, is synced and renamed to the target, and
the directory is synced (rename(2), fsync(2)). A symlink at the target is replaced, never followed: a caller that means
the file behind a link passes `path.resolve()`. On a full disk nothing stays behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PRIVATE = 0o600
PRIVATE_DIRECTORY = 0o700
PUBLIC_DIRECTORY = 0o755
NAME_BYTES = 16
"""Random bytes in the name of a new file: nobody guesses 128 bits."""
MAX_STEM = 32
"""Characters of the target's name in the name of a new file, each at most 4 bytes: a name has 255 bytes (NAME_MAX)."""
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_directory(path: Path, mode: int = PRIVATE_DIRECTORY) -> None:
    """Create a directory and its missing parents; an existing directory stays as it is. Raises OSError."""
    path.mkdir(parents=True, exist_ok=True, mode=mode)


def _sync(directory: int) -> None:
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems sync no directory
            raise


class _Beside:
    """A new file in the directory of `path`. The directory stays open, so that nobody can replace it meanwhile."""

    def __init__(self, path: Path, mode: int, owner: tuple[int, int] | None) -> None:
        self.name = path.name
        self.beside = f".{path.name[:MAX_STEM]}.{os.urandom(NAME_BYTES).hex()}"
        self.directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self.descriptor = os.open(self.beside, flags, PRIVATE, dir_fd=self.directory)
        except BaseException:
            os.close(self.directory)
            raise
        try:
            if owner is not None:
                os.fchown(self.descriptor, *owner)
            os.fchmod(self.descriptor, mode)
        except BaseException:
            os.close(self.descriptor)
            self.drop()
            os.close(self.directory)
            raise

    def drop(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.beside, dir_fd=self.directory)

    def take_place(self, *, over: bool) -> None:
        """Move the new file to its target. Raises FileExistsError when the target exists and `over` is False."""
        at = {"src_dir_fd": self.directory, "dst_dir_fd": self.directory}
        if over:
            os.rename(self.beside, self.name, **at)
        else:
            os.link(self.beside, self.name, **at, follow_symlinks=False)
            self.drop()
        _sync(self.directory)


@contextlib.contextmanager
def replacing(
    path: Path, mode: int = PRIVATE, owner: tuple[int, int] | None = None, *, over: bool = True
) -> Iterator[IO[bytes]]:
    """A file to write into that replaces `path` when the block ends; if the block raises, nothing stays.

    `mode` is exact, whatever the umask is; `owner` is (user, group). With `over` False an existing file stays.
    The directory must exist. Raises OSError, with `over` False also FileExistsError.
    """
    new = _Beside(path, mode, owner)
    try:
        try:
            with os.fdopen(new.descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            new.take_place(over=over)
        except BaseException:
            new.drop()
            raise
    finally:
        os.close(new.directory)


def write_atomic(
    path: Path, content: str | bytes, mode: int = PRIVATE, owner: tuple[int, int] | None = None
) -> None:
    """Replace `path` by a file with `content`: a reader sees the old file or the new one, also after a crash.

    `owner`: (user, group) of the new file. A missing directory is created, as private as the file. Raises OSError,
    and then leaves no new file.
    """
    make_directory(path.parent, PUBLIC_DIRECTORY if mode & OTHERS else PRIVATE_DIRECTORY)
    with replacing(path, mode, owner) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def create(path: Path, content: str | bytes, mode: int = PRIVATE) -> None:
    """Create a file in an existing directory, whole or not at all. Raises FileExistsError if it exists, and OSError."""
    if path.exists() or path.is_symlink():  # before anything is written: a full disk does not hide this error
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    with replacing(path, mode, over=False) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def overwrite(path: Path, content: str | bytes) -> None:
    """Write into an existing file that cannot be replaced by a rename. Raises OSError and then restores the content.

    The space is allocated before the first byte changes, so a full disk changes nothing. A reader may see the file
    half written.
    """
    new = content.encode() if isinstance(content, str) else content
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        old = file.read()
        try:
            if len(new) > len(old):
                os.posix_fallocate(descriptor, 0, len(new))
            _put(descriptor, new)
        except OSError:
            with contextlib.suppress(OSError):
                _put(descriptor, old)
            raise


def _put(descriptor: int, content: bytes) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(descriptor, content[done:], done)
    os.ftruncate(descriptor, len(content))
    os.fsync(descriptor)


def move(source: Path, target: Path) -> None:
    """Rename `source` to `target` in the same file system, so that a crash does not undo it. Raises OSError."""
    source.replace(target)
    sync_directory(target.parent)
    if source.parent != target.parent:
        sync_directory(source.parent)


def second_name(path: Path, other: Path) -> None:
    """Give the file at `path` the second name `other`, in the same directory; replaces `other`. Raises OSError.

    On a file system without hard links `other` becomes a copy.
    """
    beside = other.with_name(f".{other.name[:MAX_STEM]}.{os.urandom(NAME_BYTES).hex()}")
    try:
        os.link(path, beside, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        write_atomic(other, path.read_bytes())
        return
    try:
        beside.replace(other)  # a rename onto the same file does nothing and leaves both names (rename(2))
    finally:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()


def remove(path: Path) -> None:
    """Remove a file, so that a crash does not bring it back; a missing file is no error. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Sync a directory, so that its renames survive a crash. Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(directory)
    finally:
        os.close(directory)


def open_log(path: Path) -> int:
    """The descriptor of a new, empty log for a child's output. Links are not followed. Raises OSError."""
    make_directory(path.parent)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, PRIVATE)


def open_lock(path: Path) -> IO[str]:
    """Open a lock file, whose text names the holder; create a missing one; follow no link. Raises OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, PRIVATE), "a+")


def say_holder(lock: IO[str], text: str) -> None:
    """Write the holder's name into a lock that is held. On a full disk the file stays empty, but the lock holds."""
    os.ftruncate(lock.fileno(), 0)
    with contextlib.suppress(OSError):
        os.write(lock.fileno(), text.encode())


def write_kernel(path: Path, value: str) -> None:
    """Write to an existing file of the kernel below /proc or /sys. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def is_ours(path: Path) -> bool:
    """Whether only this user and root can have written a file: judged by owner and write permission for others.

    The file's directory is judged too, even a sticky one: in it, others may create a file of that name.
    """
    try:
        found = (path.lstat(), path.stat(), path.parent.stat())
    except OSError:
        return False
    mine = all(about.st_uid in (0, os.geteuid()) for about in found)
    return mine and not any(about.st_mode & stat.S_IWOTH for about in found[1:])
