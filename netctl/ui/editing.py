"""The document of this host, for the half of the page that keeps its rights: read, apply, keep.

Who wins, where a page, an editor and `netctl sync` meet:

* An apply of the page changes no file. It is armed: unless it is confirmed, the host lives by what it lived by before.
* Once it is confirmed, the file gets the text that is in force, whole or not at all, with its owner and mode. The
  agent, which watches the file, finds there what it lives by already.
* A file that somebody has saved since the edit began is never overwritten: before the apply the apply is refused, after
  it the file stays, and the agent brings that save into force, as it does with every save. The newest save wins.
* While `netctl sync` brings the document from Git, the page changes nothing: the repository is where to change it.
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
"""As for a person at a command line: an apply of a large document on a small machine."""
AGENT_MISSING = "no agent runs on this host: start it with `netctl up`"
FOLLOWED_S = 86_400.0
"""A sync that a timer starts (`--once`) holds no lock between two rounds; a day is its longest interval."""
Reply = TypeVar("Reply")
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Tried:
    """What the page has applied last. `base`: the digest of the file that was edited."""

    text: str
    base: str


class Editing:
    """One at a time, whoever edits."""

    def __init__(self, locations: Locations) -> None:
        self._places = locations
        self._tried: _Tried | None = None
        self._turn = threading.Lock()

    def read(self) -> w.DocumentText:
        """The file, what is in force, and where it comes from."""
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
        """Have the agent try it. Raises NetctlError, with nothing changed."""
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
        """Keep what is armed, and write it down. Raises LocalError."""
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
        """Raises LocalError where the document is somebody else's to change, or was changed."""
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
        """None: no sync brings this host's document."""
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
    """Git's words as JSON can carry them: what is no UTF-8 in them is escaped."""
    return text.encode(errors="backslashreplace").decode()
