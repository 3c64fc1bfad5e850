"""What happened on this host within the last day: a bounded list in memory, and a file of it for the next life.

It is for people: a time is the wall clock's, and nothing is decided by it. The file is written whole or not at all,
some time after something has happened; an idle host writes nothing. Where it cannot be written (a full disk), it is
said once and everything else goes on. What stands in the file and is no entry is passed over.
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
"""A day: what happened last night is looked at in the morning."""
MAX_ENTRIES = 2_000
"""Some 200 kB; a network of a thousand members that restarts makes two lines for each."""
MAX_TEXT = 500
"""Characters of a line."""
SAVE_AFTER_S = 30.0
"""After something has happened: what comes with it is written with it, and a flapping path does not wear a card out."""
MAX_FILE = 4 * MAX_ENTRIES * MAX_TEXT
"""Bytes that are read: a larger file is none of ours."""


class Timeline:
    """What happened, the oldest first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: deque[Happening] = deque(maxlen=MAX_ENTRIES)
        self._news = asyncio.Event()
        self._loaded = False

    async def load(self, disk: Disk) -> None:
        """What an earlier life has seen, before what this one has. A file that cannot be read is as none."""
        if not self._loaded:
            self._loaded = True
            self._entries = deque([*await disk.run(_read, self._path), *self._entries], MAX_ENTRIES)

    def add(self, kind: str, text: str) -> None:
        """It happened now; what happens again and again stands once. `kind`: path, member, apply, or host."""
        plain = text[:MAX_TEXT].encode(errors="backslashreplace").decode()
        if self._entries and (self._entries[-1].kind, self._entries[-1].text) == (kind, plain):
            return
        self._entries.append(Happening(round(time.time(), 1), kind, plain))
        self._news.set()

    def newest(self) -> list[Happening]:
        """Of the last day, the newest first. A clock that was set back takes nothing away."""
        since = time.time() - KEPT_S
        return [one for one in reversed(self._entries) if one.at_s >= since]

    async def run(self, disk: Disk, said: Callable[[str], None]) -> None:
        """Keep the file: for ever. `said`: takes why it cannot be written, once."""
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
        """Write it, where there is news. Raises OSError."""
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
