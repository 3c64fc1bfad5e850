"""Cache of the last document in compiled form, so that the same text is not checked twice."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from dataclasses import replace
from functools import cache
from pathlib import Path

import netctl
from netctl.config import Loaded, load_document
from netctl.config.load.compiled import LateSource, compile_document, load_compiled
from netctl.system.files import write_atomic

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def checking_files(root: Path) -> list[Path]:
    """The files of code and schemas that check documents, in the package's directory."""
    files = (path for room in ("config", "model", "schemas") for path in (root / room).rglob("*.*"))
    return sorted(path for path in files if path.suffix in (".py", ".json"))


@cache
def code_stamp() -> str:
    """Identifies the code that checks documents: another version or an edited file invalidates the cache."""
    root = Path(netctl.__file__).parent
    found = hashlib.sha256(netctl.__version__.encode())
    for path in checking_files(root):
        about = path.stat()
        found.update(f"{path.relative_to(root)} {about.st_size} {about.st_mtime_ns}\n".encode())
    return found.hexdigest()


class CompiledDocuments:
    """The cache: one file in the state directory, and the last document in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: Loaded | None = None
        self.checked = 0
        """Count of texts that were checked, because their compiled form was not there."""

    def load(self, text: str, file: str) -> Loaded:
        """The document of a text, as from `load_document`. Raises ConfigError."""
        last = self._last
        if last is not None and last.source.text == text and last.source.file == file:
            return last
        kept = self._kept()
        loaded = load_compiled(kept, code_stamp(), text, file) if kept is not None else None
        if loaded is None:
            checked = load_document(text, file)
            self.checked += 1
            self._keep(checked)
            loaded = replace(checked, source=LateSource(file, text))
        self._last = loaded
        return loaded

    def _keep(self, loaded: Loaded) -> None:
        with contextlib.suppress(OSError):  # without the file the next load is only slower
            if self._path.parent.is_dir():  # do not make a state directory for it
                write_atomic(self._path, compile_document(loaded, code_stamp()).decode())

    def _kept(self) -> bytes | None:
        """The file's content, if only this user or root can have written it."""
        try:
            with self._path.open("rb") as file:
                about = os.fstat(file.fileno())
                if about.st_uid not in (0, os.getuid()) or about.st_mode & OTHERS_WRITE:
                    return None
                return file.read()
        except OSError:
            return None
