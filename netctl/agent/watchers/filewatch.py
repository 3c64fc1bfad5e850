"""Waits until the content of a file has changed and writes have paused for a moment.

The directories that lead to the file are watched, not the file: editors rename a new file over the old one, and
Kubernetes and deployment tools swap symbolic links. A slow timer finds changes without events. Only the content
counts: a touch, a change of owner or a save of the same text is no change.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import ObservedWatch

QUIET_S = 0.3
"""Pause that ends a save: an editor that writes in place does so in several steps within milliseconds."""
PATIENCE_S = 3.0
"""A file with endless writes is read after this time."""
SLOW_S = 10.0
"""Interval for changes without events: a network file system, a link swapped further up, no inotify left."""
MAX_LINKS = 16
"""Most links followed. The kernel follows 40; a longer chain than a few is a mistake."""
READS = frozenset({"opened", "closed_no_write"})
"""Events that our own reading causes."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The content of the file. `error`: why it cannot be read; `text` is then empty."""

    text: str
    error: str | None = None

    @property
    def digest(self) -> str:
        """A digest of text and error, for comparison."""
        return hashlib.sha256(f"{self.error}\0{self.text}".encode(errors="surrogatepass")).hexdigest()


class _Handler(FileSystemEventHandler):
    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type not in READS:
            self._tell()


class FileWatch:
    """Watches one file. `read` returns its text, or raises an error whose text gives the reason."""

    def __init__(
        self, path: Path, read: Callable[[Path], str], *, slow_s: float = SLOW_S, quiet_s: float = QUIET_S
    ) -> None:
        self.path = path
        self._read = read
        self._slow_s = slow_s
        self._quiet_s = quiet_s
        self._stirred = asyncio.Event()
        self._watches: dict[tuple[str, int, int], ObservedWatch] = {}
        loop = asyncio.get_running_loop()
        self._handler = _Handler(lambda: _tell(loop, self._stirred))
        self._observer = Observer()
        self.blind: str | None = None
        """Why there are no events, so that only the timer finds changes; None: there are events."""
        try:
            self._observer.start()
        except OSError as error:
            self.blind = str(error)
        self._aim()

    def close(self) -> None:
        """End the watching threads."""
        if self.blind is None or self._observer.is_alive():
            self._observer.stop()
            self._observer.join()

    def look(self) -> Seen:
        """Read the file."""
        try:
            return Seen(self._read(self.path))
        except Exception as error:
            return Seen("", str(error))

    async def change(self, known: str) -> Seen:
        """Wait until the file differs from what had the digest `known`; returns the new content."""
        while True:
            try:
                await asyncio.wait_for(self._stirred.wait(), self._slow_s)
            except TimeoutError:
                pass
            else:
                await self._quiet()
            self._aim()
            seen = await asyncio.to_thread(self.look)
            if seen.digest != known:
                return seen

    async def _quiet(self) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while self._stirred.is_set() and asyncio.get_running_loop().time() < deadline:
            self._stirred.clear()
            await asyncio.sleep(self._quiet_s)
        self._stirred.clear()

    def _aim(self) -> None:
        """Watch the directories that now lead to the file; a new directory of the same name replaces the old one."""
        wanted = _directories(self.path)
        for place in [place for place in self._watches if place not in wanted]:
            watch = self._watches.pop(place)
            try:
                self._observer.unschedule(watch)
            except (OSError, KeyError):
                continue  # removed together with its directory
        for place in wanted - self._watches.keys():
            try:
                self._watches[place] = self._observer.schedule(self._handler, place[0], recursive=False)
                self.blind = None
            except OSError as error:
                self.blind = (
                    f"{place[0]} cannot be watched ({error}): it is looked at every {self._slow_s:.0f} s"
                )


def _tell(loop: asyncio.AbstractEventLoop, stirred: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(stirred.set)


def _directories(path: Path) -> set[tuple[str, int, int]]:
    """(real path, device, inode) of the directories of the file and of each link that leads to it."""
    found: set[tuple[str, int, int]] = set()
    for _ in range(MAX_LINKS):
        real = os.path.realpath(path.parent)
        try:
            status = os.stat(real)
            found.add((real, status.st_dev, status.st_ino))
            path = path.parent / os.readlink(path)
        except OSError:
            return found  # the file itself is reached, or nothing exists: watch the directories found so far
    return found
