"""Reads, applies and keeps the document of this host, in the process of the page that keeps its rights (the
broker).

These rules decide which text wins if the page, an editor and `netctl sync` change the document at once:

* An apply of the page changes no file. It is a trial: unless somebody confirms it, the host goes back to the document
  before.
* When the trial is confirmed, its text is written into the file, completely or not at all, with the file's owner and
  mode. The agent, which watches the file, finds there the document that is in force already.
* The page never overwrites a file that somebody has saved since the edit began. A save before the apply: the apply is
  refused. A save during the trial: the file stays, and the agent brings that save into force. The newest save wins.
* While `netctl sync` brings the document from Git, the page changes nothing: people change it in the repository.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from msgspec.structs import replace

from netctl.agent.storage.locations import Locations, read_document
from netctl.config.load.build import digest
from netctl.fleet.keeper import is_kept
from netctl.fleet.syncstate import StateFile
from netctl.model.errors import LocalError, NetctlError
from netctl.system.files import write_atomic
from netctl.system.lineclient import Server, ask
from netctl.ui import brokerwire as w
from netctl.wire import agentrequests as a
from netctl.wire.jsonline import Request

TIMEOUT_S = 120.0
"""Seconds that the commands of netctl wait as well: for an apply of a large document on a small machine."""
AGENT_MISSING = "no agent runs on this host: start it with `netctl up`"
FOLLOWED_S = 86_400.0
"""Seconds since its last look after which a sync no longer counts as running: one that a timer starts (`--once`)
holds no
lock between two rounds, and a day is its longest interval."""
Reply = TypeVar("Reply")
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Tried:
    """The text that the page applied last. `base`: the digest of the file when the edit began."""

    text: str
    base: str


class Editing:
    """Reads and changes the document. Only one change runs at a time."""

    def __init__(self, locations: Locations) -> None:
        self._places = locations
        self._tried: _Tried | None = None
        self._turn = threading.Lock()

    def read(self) -> w.DocumentText:
        """The text of the file, the text in force, and where the document comes from."""
        locations = self._places
        text = trouble = accepted = None
        try:
            text = read_document(locations.config)
        except NetctlError as error:
            trouble = str(error)
        if locations.accepted.exists():
            accepted = read_document(locations.accepted)
        return w.DocumentText(str(locations.config), text, accepted, trouble, self._git())

    def apply(self, request: w.ApplyDocument, progress: Progress) -> a.ApplyReply:
        """Make the agent try a text. Raises NetctlError; nothing has changed then."""
        with self._turn:
            self._must_be_ours(request.base)
            asked = a.Apply(
                request.text,
                str(self._places.config),
                binding=request.binding,
                confirm_s=request.confirm_s,
                ssh_connection="",
                force=request.force,
            )
            self._tried = _Tried(request.text, request.base)
            return self._ask(asked, progress)

    def confirm(self, progress: Progress) -> w.Kept:
        """Keep the document on trial, and write it into the file. Raises LocalError."""
        with self._turn:
            kept = self._ask(a.Confirm(), progress).digest
            tried, self._tried = self._tried, None
            if tried is None or digest(tried.text) != kept:
                return w.Kept(
                    None, "it was not applied by this page: `netctl plan` says whether the file differs"
                )
            try:
                self._must_be_ours(tried.base)
                self._write(tried.text)
            except LocalError as error:
                return w.Kept(None, str(error))
            return w.Kept(str(self._places.config))

    def _ask(self, request: Request[Reply], progress: Progress) -> Reply:
        server = Server(self._places.socket, "agent", AGENT_MISSING)
        return ask(server, request, progress, timeout_s=TIMEOUT_S).reply

    def _must_be_ours(self, base: str) -> None:
        """Raise LocalError if `netctl sync` brings the document, or if the file is no longer the one with digest
        `base`."""
        if self._git() is not None:
            raise LocalError("`netctl sync` brings this document from Git: change it there")
        if digest(read_document(self._places.config)) != base:
            raise LocalError(
                f"{self._places.config} was saved by somebody else meanwhile, and that save wins: "
                "plan again, and see what your text changes in it"
            )

    def _write(self, text: str) -> None:
        path = self._places.config.resolve()
        try:
            about = path.stat()
            write_atomic(path, text, stat.S_IMODE(about.st_mode), (about.st_uid, about.st_gid))
        except OSError as error:
            raise LocalError(f"{path} cannot be written: {error.strerror}") from None

    def _git(self) -> w.GitSource | None:
        """What the sync says of its document; None: no sync brings this host's document."""
        directory = self._places.sync
        state = StateFile(directory / "state.json", write_atomic).load()
        if not (is_kept(directory / "lock") or time.time() - state.looked_at_s < FOLLOWED_S):
            return None
        if state.writes and os.path.realpath(state.writes) != os.path.realpath(self._places.config):
            return None
        source = w.GitSource(
            repository=_plain(state.repository),
            branch=_plain(state.branch),
            path=_plain(state.path),
            in_force=state.last_good,
            looked_at_s=state.looked_at_s,
            problem=_plain(state.problem),
        )
        if not state.history:
            return source
        newest = state.history[0]
        return replace(
            source,
            commit=_plain(newest.commit),
            subject=_plain(newest.subject),
            author=_plain(newest.author),
            signer=_plain(newest.signer),
            outcome=_plain(newest.outcome.value),
            why=_plain(newest.why),
        )


def _plain(text: str) -> str:
    """A text of Git that JSON can carry: whatever is not UTF-8 in it is escaped."""
    return text.encode(errors="backslashreplace").decode()
