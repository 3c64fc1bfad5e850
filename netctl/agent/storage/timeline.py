"""The time line: events of the last day on this host, as a bounded list in memory and a file for the next start.

It is for people: times are wall clock times, and no decision depends on them. The file is written completely or not at
all, SAVE_AFTER_S after an event; an idle host writes nothing. If it cannot be written (a full disk), one warning is
logged and the agent continues. Lines of the file that are no entries are skipped.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from netctl.agent.storage.disk import Disk
from netctl.system.files import write_atomic
from netctl.wire.agentrequests import Happening

KEPT_S = 86_400.0
"""A day: people look at the events of the night in the morning."""
MAX_ENTRIES = 2_000
"""About 200 kB; the restart of a network makes two entries per member."""
MAX_TEXT = 500
"""Characters of a line."""
SAVE_AFTER_S = 30.0
"""Delay between an event and the write: collects events, so that a flapping path does not wear out a memory card."""
MAX_FILE = 4 * MAX_ENTRIES * MAX_TEXT
"""Most bytes read: our own file is never larger."""


class Timeline:
    """The events, oldest first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: deque[Happening] = deque(maxlen=MAX_ENTRIES)
        self._news = asyncio.Event()
        self._loaded = False

    async def load(self, disk: Disk) -> None:
        """Put the events of the file before the present ones. An unreadable file counts as empty."""
        if not self._loaded:
            self._loaded = True
            self._entries = deque([*await disk.run(_read, self._path), *self._entries], MAX_ENTRIES)

    def add(self, kind: str, text: str) -> None:
        """Add an event of now, unless it equals the newest one. `kind`: path, member, apply, or host."""
        plain = text[:MAX_TEXT].encode(errors="backslashreplace").decode()
        if self._entries and (self._entries[-1].kind, self._entries[-1].text) == (kind, plain):
            return
        self._entries.append(Happening(round(time.time(), 1), kind, plain))
        self._news.set()

    def newest(self) -> list[Happening]:
        """Events of the last day, newest first. A clock that was set back hides none."""
        since = time.time() - KEPT_S
        return [one for one in reversed(self._entries) if one.at_s >= since]

    async def run(self, disk: Disk, said: Callable[[str], None]) -> None:
        """Write the file after events, until cancelled. `said`: receives, once, why it cannot be written."""
        failing = False
        await self.load(disk)
        while True:
            await self._news.wait()
            await asyncio.sleep(SAVE_AFTER_S)
            try:
                await self.save(disk)
                failing = False
            except OSError as error:
                if not failing:
                    said(f"cannot keep what happened for the next start: {error.strerror}")
                failing = True

    async def save(self, disk: Disk) -> None:
        """Write the file if there are new events. Raises OSError."""
        if not self._news.is_set():
            return
        self._news.clear()
        content = b"".join(msgspec.json.encode(one) + b"\n" for one in reversed(self.newest()))
        await disk.run(write_atomic, self._path, content)


def _read(path: Path) -> list[Happening]:
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_FILE).splitlines()
    except OSError:
        return []
    return list(_entries(lines))


def _entries(lines: Iterable[bytes]) -> Iterable[Happening]:
    decoder = msgspec.json.Decoder(Happening)
    for line in lines:
        try:
            yield decoder.decode(line)
        except (msgspec.MsgspecError, RecursionError):
            continue
