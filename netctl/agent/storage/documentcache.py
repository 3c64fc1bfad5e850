"""Keeps the document that was read last in its compiled form: the same text is not checked twice."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from functools import cache
from pathlib import Path

import netctl
from netctl.config import Loaded, load_document
from netctl.config.load.compiled import compile_document, load_compiled
from netctl.system.files import write_atomic

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def checking_files(root: Path) -> list[Path]:
    """The code and the schemas that check documents, below the package's folder."""
    files = (path for room in ("config", "model", "schemas") for path in (root / room).rglob("*.*"))
    return sorted(path for path in files if path.suffix in (".py", ".json"))


@cache
def code_stamp() -> str:
    """What identifies the code that checks documents: another version, or an edited file, checks anew."""
    root = Path(netctl.__file__).parent
    found = hashlib.sha256(netctl.__version__.encode())
    for path in checking_files(root):
        about = path.stat()
        found.update(f"{path.relative_to(root)} {about.st_size} {about.st_mtime_ns}\n".encode())
    return found.hexdigest()


class CompiledDocuments:
    """One file in the state directory, and the last document in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: Loaded | None = None

    def load(self, text: str, file: str) -> Loaded:
        """As `load_document`: the document of this text. Raises ConfigError."""
        last = self._last
        if last is not None and last.source.text == text and last.source.file == file:
            return last
        kept = self._kept()
        loaded = load_compiled(kept, code_stamp(), text, file) if kept is not None else None
        if loaded is None:
            loaded = load_document(text, file)
            self._keep(loaded)
        self._last = loaded
        return loaded

    def _keep(self, loaded: Loaded) -> None:
        with contextlib.suppress(OSError):  # without it the next load is slower, and that is all
            if self._path.parent.is_dir():  # reading a document is no reason to make one
                write_atomic(self._path, compile_document(loaded, code_stamp()).decode())

    def _kept(self) -> bytes | None:
        """The file, when nobody but this user or root can have written it."""
        try:
            with self._path.open("rb") as file:
                about = os.fstat(file.fileno())
                if about.st_uid not in (0, os.getuid()) or about.st_mode & OTHERS_WRITE:
                    return None
                return file.read()
        except OSError:
            return None
