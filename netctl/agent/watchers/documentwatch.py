"""Applies the watched document after each save; a broken save changes nothing.

Only changes count. If the file differs from the accepted document at the agent's start, `status` says so, but the file
is not applied: a reboot must not apply a half-edited file. A host without an accepted document waits for its first
`netctl apply`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Protocol

from netctl.agent.log import say, warn
from netctl.agent.watchers.filewatch import QUIET_S, SLOW_S, FileWatch, Seen
from netctl.config.load.build import digest
from netctl.model.errors import ConfigError, NetctlError
from netctl.model.forpeople import counted
from netctl.model.outcome import ApplyOutcome
from netctl.node.commit import Terms
from netctl.node.state import NodeState

UNSETTLED = Seen("", "to be tried again").digest
"""Equals no file, so that the slow timer finds a change."""
FREE_S = 1.0
"""Interval of checks of a save while an apply waits for a person's confirmation."""


class Applied(Protocol):
    """The result of an apply."""

    @property
    def outcome(self) -> ApplyOutcome:
        """The result on the host."""


class Applier(Protocol):
    """The agent, as the document watch uses it."""

    @property
    def state(self) -> NodeState:
        """What the node knows and has decided."""

    def somebody_confirms(self) -> bool:
        """Whether an apply waits for the confirmation of a person."""

    def refused(self) -> tuple[str, ...]:
        """Digests of documents that were rolled back."""

    async def apply(self, text: str, file: str, *, terms: Terms) -> Applied:
        """Apply a document. Raises NetctlError."""


class DocumentWatch:
    """Applies each save of one file."""

    def __init__(
        self, agent: Applier, path: Path, *, slow_s: float = SLOW_S, quiet_s: float = QUIET_S
    ) -> None:
        self._agent = agent
        self._path = path
        self._slow_s = slow_s
        self._quiet_s = quiet_s
        # Not its text: of thousands of members that is a megabyte, which a host at rest does not need twice.
        self._document = digest("")
        """The digest of the document in the file."""
        self._unread: str | None = None
        """Why the file cannot be read."""
        self._error: str | None = None

    def status(self) -> dict[str, Any]:
        """The watch for `netctl status -o json`. `error`: why the file is not the accepted document."""
        error = None if self._in_force() else self._error
        if error is None and self._taken_back():
            error = (
                f"the save of {self._path} was taken back, because what worked before it did not work again: "
                "change it, or `netctl apply --force`"
            )
        return {"file": str(self._path), "error": error}

    def _taken_back(self) -> bool:
        return self._follows() and self._document in self._agent.refused()

    def _in_force(self) -> bool:
        loaded = self._agent.state.loaded
        return loaded is not None and self._unread is None and self._document == loaded.document.digest

    async def run(self) -> None:
        """Watch until cancelled."""
        from netctl.agent.storage.locations import read_document

        watch = FileWatch(self._path, read_document, slow_s=self._slow_s, quiet_s=self._quiet_s)
        try:
            if watch.blind is not None:
                warn(f"watch: {watch.blind}")
            known = self._note(watch.look())
            if self._follows() and self._unread is None:
                self._error = f"{self._path} is not what this host lives by: `netctl apply` makes it so"
            while True:
                seen = await watch.change(known)
                known = self._note(seen)
                while self._follows() and self._agent.somebody_confirms():
                    await asyncio.sleep(FREE_S)
                    seen = watch.look()
                    known = self._note(seen)
                if self._follows() and not self._in_force() and not await self._bring(seen):
                    known = UNSETTLED
                del seen
        finally:
            await asyncio.to_thread(watch.close)

    def _note(self, seen: Seen) -> str:
        """Remember what is in the file; returns its digest."""
        self._document, self._unread = digest(seen.text), seen.error
        return seen.digest

    def _follows(self) -> bool:
        """Whether saves count: not before a first apply by hand, nor on a host that joined by invite."""
        return self._agent.state.loaded is not None and self._agent.state.joined is None

    async def _bring(self, seen: Seen) -> bool:
        """Apply a save. False: nothing was changed, and a retry may succeed."""
        agent = self._agent
        if seen.error is not None:
            self._refuse(f"{seen.error}; nothing was changed")
            return True
        try:
            result = await agent.apply(seen.text, str(self._path), terms=Terms(unattended=True))
        except ConfigError as error:
            self._refuse(f"{error.findings[0]}; nothing was changed")
            return True
        except (NetctlError, OSError) as error:
            self._refuse(str(error))
            return False
        outcome = result.outcome
        if outcome.error is not None:
            how = "everything is as it was" if outcome.rolled_back else "the host is between two states"
            self._refuse(f"{outcome.error}; {how}")
        else:
            self._error = None
            say(f"{self._path} was saved and applied: {counted(outcome.changed, 'change')}")
        return True

    def _refuse(self, why: str) -> None:
        error = f"the save of {self._path} is not in force: {why}"
        if error != self._error:
            warn(error)
        self._error = error
