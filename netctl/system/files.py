"""The one place that writes files: whole or not at all, under a name nobody can guess, private from the first byte.

What others could do with a name that they can guess: make the file first and keep it open, so that they read what
root writes; or plant a symlink, so that root writes where they want. So a file is made beside its place with
O_EXCL under 128 random bits, has its owner and mode before its first byte, is synced, takes its place by rename, and
the directory is synced (rename(2), fsync(2)). A symlink in its place is replaced, never followed: who means a file
behind a link says `path.resolve()`. On a full disk nothing stays behind.
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
"""Of the name beside: 128 bits, which nobody guesses."""
MAX_STEM = 32
"""Characters of a file's own name in the name beside, of 4 bytes at most: a name has 255 bytes (NAME_MAX)."""
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_directory(path: Path, mode: int = PRIVATE_DIRECTORY) -> None:
    """Make a directory and those above it that are missing; one that is there stays as it is. Raises OSError."""
    path.mkdir(parents=True, exist_ok=True, mode=mode)


def _sync(directory: int) -> None:
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems sync no directory
            raise


class _Beside:
    """A new file beside `path`, in a directory that is held open: nothing can be slipped in between."""

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
        """Raises FileExistsError when the place is taken and `over` is False."""
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
    """A file to write into that takes the place of `path` when the block ends; nothing stays when it raises.

    `mode` is exact, whatever the umask is; `owner` is (user, group). With `over` False an existing file stays.
    The directory must be there. Raises OSError, of which FileExistsError.
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
    """Put `content` in the place of `path`: a reader sees the old file or the new one, also after a crash.

    `owner` (user, group): whose the file is to be. A directory that is missing is made, as private as the file.
    Raises OSError, and leaves nothing.
    """
    make_directory(path.parent, PUBLIC_DIRECTORY if mode & OTHERS else PRIVATE_DIRECTORY)
    with replacing(path, mode, owner) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def create(path: Path, content: str | bytes, mode: int = PRIVATE) -> None:
    """A new file in a directory that is there, whole or not at all. FileExistsError when there is one; OSError."""
    if path.exists() or path.is_symlink():  # before anything is written: on a full disk it is the same
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    with replacing(path, mode, over=False) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def overwrite(path: Path, content: str | bytes) -> None:
    """Write into an existing file where nothing can be renamed over it. Raises OSError; the old content is back then.

    Room is asked for before the first byte is changed, so a full disk changes nothing. A reader may see a half.
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
    """A file takes the place of another in the same file system, also after a crash. Raises OSError."""
    source.replace(target)
    sync_directory(target.parent)
    if source.parent != target.parent:
        sync_directory(source.parent)


def second_name(path: Path, other: Path) -> None:
    """Have the file at `path` under `other`, too, in the same directory; what was there goes. Raises OSError.

    Nothing is copied where the file system has hard links.
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
        beside.replace(other)  # a rename onto the same file does nothing, and leaves both names (rename(2))
    finally:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()


def remove(path: Path) -> None:
    """Remove a file, also after a crash; no error when there is none. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """What was renamed in a directory is so after a crash too. Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(directory)
    finally:
        os.close(directory)


def open_log(path: Path) -> int:
    """A new log for a child's output: a descriptor. What stood there is gone; links are not followed. OSError."""
    make_directory(path.parent)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, PRIVATE)


def open_lock(path: Path) -> IO[str]:
    """A file to lock, which says who holds it; made where there is none, never followed as a link. OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, PRIVATE), "a+")


def say_holder(lock: IO[str], text: str) -> None:
    """Write into a lock that is held who holds it. On a full disk it says nobody, and holds all the same."""
    os.ftruncate(lock.fileno(), 0)
    with contextlib.suppress(OSError):
        os.write(lock.fileno(), text.encode())


def write_kernel(path: Path, value: str) -> None:
    """Set one of the kernel's own files below /proc or /sys, which is never made. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def is_ours(path: Path) -> bool:
    """Whether nobody but this user and root can have put a file there: by owner, and by who else may write.

    Its directory counts as the file does, a sticky one too: others may make a file of that name there.
    """
    try:
        found = (path.lstat(), path.stat(), path.parent.stat())
    except OSError:
        return False
    mine = all(about.st_uid in (0, os.geteuid()) for about in found)
    return mine and not any(about.st_mode & stat.S_IWOTH for about in found[1:])
