"""Watches the document's file; the last good document stays in force, over restarts too."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mediator.core.acceptance import accept
from mediator.core.membershipservice import Offered
from mediator.shell.credentials import belong
from mediator.shell.documentnotes import brought
from netctl.model.document import Document, Mediator
from netctl.model.errors import ConfigError, LocalError, NetctlError
from netctl.model.keys import IdentityKey
from netctl.system.files import write_atomic
from netctl.wire.origin import MAX_BYTES, Origin, origin_of, origin_path

KEPT_FILE = "accepted.yaml"
"""Name of the copy of the last good document, in the state directory, and in that of a relay of another user."""
OFFERED_FILE = "offered"
"""The digest of the file as it last was offered to the store, or left aside for the store's: no news at the next
start."""


def cannot_read(path: Path, error: OSError) -> LocalError:
    """The error for an unreadable document, with advice."""
    advice = ""
    if isinstance(error, PermissionError):
        advice = f" to uid {os.geteuid()}; there is no secret in it: chmod a+r {path}"
    return LocalError(f"cannot read {path}: {error.strerror}{advice}")


class WatchedDocument:
    """The document's file, the last good document, and why the file's present content is refused, if it is."""

    def __init__(
        self,
        path: Path,
        identity: IdentityKey,
        state: Path | None = None,
        check: Callable[[Document, Mediator], None] = lambda document, own: None,
    ) -> None:
        """`state`: the directory with the copy of the last good document. `check` raises LocalError for a document
        that is valid, but that this server cannot work by: it is refused as an invalid one is.
        """
        self.path = path
        self.good_text = ""
        """The text of the document in force."""
        self.good_origin: Origin | None = None
        """The origin of that document, if a file beside it names it."""
        self._kept = state / KEPT_FILE if state is not None else None
        self.refusal: str | None = None
        self._identity = identity
        self._check = check
        self._stamp: tuple[int, int, int] | None = None
        self._text: str | None = None
        self._state = state
        self._shared = False
        self._in_file: Offered | None = None
        """The good document of the file, where the one in force comes from the store."""

    def load(self) -> tuple[Document, Mediator]:
        """Read the file at the start, or the last good copy if the file is refused. Raises NetctlError if both fail."""
        try:
            return self._first()
        except NetctlError as error:
            try:
                found = self._from_kept()
            except NetctlError:
                raise error from None
            self.refusal = str(error)
            return found

    def _first(self) -> tuple[Document, Mediator]:
        try:
            self._stamp = self._file_stamp()
            self._text = text = self.path.read_text()
        except OSError as error:
            self._stamp = None
            raise cannot_read(self.path, error) from error
        except UnicodeDecodeError as error:
            raise LocalError(f"cannot read {self.path}: {error}") from error
        return self._understood(text)

    def _from_kept(self) -> tuple[Document, Mediator]:
        if self._kept is None:
            raise LocalError("there is no other")
        try:
            text = self._kept.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise LocalError(f"cannot read {self._kept}: {error}") from error
        found = accept(text, str(self.path), self._identity)
        self._check(*found)
        self.good_text, self.good_origin = text, self._origin(found[0].digest)
        return found

    # -- a store that several mediators share: what is in force comes from there ----------------------------------

    def load_shared(self) -> tuple[Offered | None, tuple[Document, Mediator] | None]:
        """For the first time: the file's document, and what is to be served where the store's cannot be taken."""
        self._shared = True
        found: tuple[Document, Mediator] | None = None
        try:
            found = self._first()
        except NetctlError as error:
            self.refusal = str(error)
        with contextlib.suppress(NetctlError):
            found = self._from_kept()
        return self._in_file, found

    def is_changed(self) -> bool:
        """Whether the file is another one than when this mediator last ran with a shared store."""
        if self._state is None or self._in_file is None:
            return False
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return (self._state / OFFERED_FILE).read_text().strip() != self._in_file.document.digest
        return False

    def settled(self, offered: Offered) -> str | None:
        """The store knows of this document of the file, or has another one that counts; blocking. A line on failure."""
        if self._state is None:
            return None
        try:
            write_atomic(self._state / OFFERED_FILE, f"{offered.document.digest}\n")
            belong(self._state / OFFERED_FILE)
        except OSError as error:
            return f"cannot write {self._state / OFFERED_FILE}: {error.strerror}"
        return None

    def take(self, content: str) -> None:
        """This is in force from now on, from the store."""
        self.good_text = content

    def in_file(self) -> Offered | None:
        """The file's good document."""
        return self._in_file

    def disagrees(self, digest: str) -> str | None:
        """What to say where the file is not what is in force, whose digest this is."""
        if not self._shared or self._in_file is None or self._in_file.document.digest == digest:
            return None
        return (
            f"{self.path} (digest {self._in_file.document.digest[:12]}) is not the document in force, which another "
            "mediator has brought into the store: bring the file up to date, or save it anew to have it in force"
        )

    def said_at_start(self) -> str:
        """The log line about a start with the last good copy."""
        return f"starting with the last good document, {self._kept}, for the file is refused:\n{self.refusal}"

    def keep(self) -> str | None:
        """Write the copy of the document in force, if it differs; blocking. Returns a line if that fails."""
        text = self.good_text
        if self._kept is None:
            return None
        try:
            with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
                if self._kept.read_text() == text:
                    return None
            write_atomic(self._kept, text)
            belong(self._kept)
        except OSError as error:
            return f"cannot keep a copy of the document in {self._kept}: {error.strerror}"
        return None

    def is_touched(self) -> bool:
        """Whether `look` may find something: the file is not the one that was read, or there is none."""
        try:
            return self._file_stamp() != self._stamp
        except OSError:
            return True

    def look(self) -> tuple[Document, Mediator] | str | None:
        """Check the file: a new good document, a line about a refused one, or None: unchanged.

        Takes some 70 µs for each member of a document that has changed.
        """
        try:
            stamp = self._file_stamp()
            if stamp == self._stamp:
                return None
            self._stamp = stamp
            text = self.path.read_text()
            if text == self._text:
                return None
            self._text = text
            found = self._understood(text)
        except ConfigError as error:
            return self.refuse(f"\n{error}")
        except OSError as error:  # no file descriptor left, or a missing network share: try again later
            self._stamp = self._text = None
            known = self.refusal
            said = self.refuse(f" it cannot be read: {error.strerror}")
            return None if known == self.refusal else said
        except (UnicodeDecodeError, NetctlError) as error:
            return self.refuse(f" {error}")
        self.refusal = None
        return found

    def refuse(self, reason: str) -> str:
        """Keep the last good document; returns the line that says so."""
        self.refusal = reason.strip()
        return f"{self.path} is refused and the last good one stays:{reason}"

    def status(self, document: Document, since_s: float) -> dict[str, Any]:
        """The watch for `netctl-mediator status`; `document`: the last good one, in force for `since_s` seconds."""
        return {
            "path": str(self.path),
            "digest": document.digest,
            "since_s": round(since_s, 1),
            "refused": self.refusal,
            "disagrees": self.disagrees(document.digest),
        }

    def _understood(self, text: str) -> tuple[Document, Mediator]:
        document, mediator = accept(text, str(self.path), self._identity)
        self._check(document, mediator)
        origin = self._origin(document.digest)
        if self._shared:
            self._in_file = Offered(text, document, *brought(origin, str(self.path)))
        else:
            self.good_text, self.good_origin = text, origin
        return document, mediator

    def _origin(self, digest: str) -> Origin | None:
        try:
            with origin_path(self.path.resolve()).open("rb") as file:
                return origin_of(digest, file.read(MAX_BYTES + 1))
        except OSError:
            return None

    def _file_stamp(self) -> tuple[int, int, int]:
        status = self.path.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size
