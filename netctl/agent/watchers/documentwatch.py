"""The agent follows its document: a save brings the host to it once, a broken save changes nothing.

It acts on changes alone. A file that differs when the agent starts is said in `status` and not applied: a reboot
must not bring into force what somebody has left half edited. A host that has no accepted document yet waits for
its first `netctl apply`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Protocol

from netctl.agent.log import say, warn
from netctl.agent.watchers.filewatch import QUIET_S, SLOW_S, FileWatch, Seen
from netctl.config.load.build import digest
from netctl.model.errors import ConfigError, NetctlError
from netctl.model.outcome import ApplyOutcome
from netctl.node.commit import Terms
from netctl.node.state import NodeState

UNSETTLED = Seen("", "to be tried again")
"""No file reads so: the slow timer finds a change."""
FREE_S = 1.0
"""While an apply waits for its confirmation, a save is looked at again so often."""


class Applied(Protocol):
    """How an apply ended."""

    @property
    def outcome(self) -> ApplyOutcome:
        """What became of the host."""


class Applier(Protocol):
    """Who lives by the document."""

    @property
    def state(self) -> NodeState:
        """What is known and decided."""

    def somebody_confirms(self) -> bool:
        """Whether an apply waits for a person."""

    def refused(self) -> tuple[str, ...]:
        """Digests of documents that were rolled back."""

    async def apply(self, text: str, file: str, *, terms: Terms) -> Applied:
        """Make this text the host's document. Raises NetctlError."""


class DocumentWatch:
    """Brings each save of one file into force."""

    def __init__(
        self, agent: Applier, path: Path, *, slow_s: float = SLOW_S, quiet_s: float = QUIET_S
    ) -> None:
        self._agent = agent
        self._path = path
        self._slow_s = slow_s
        self._quiet_s = quiet_s
        self._seen = Seen("")
        self._error: str | None = None

    def status(self) -> dict[str, Any]:
        """For `netctl status -o json`. `error`: why the file is not what the host lives by."""
        error = None if self._in_force() else self._error
        if error is None and self._taken_back():
            error = (
                f"the save of {self._path} was taken back, because what worked before it did not work again: "
                "change it, or `netctl apply --force`"
            )
        return {"file": str(self._path), "error": error}

    def _taken_back(self) -> bool:
        return self._follows() and digest(self._seen.text) in self._agent.refused()

    def _in_force(self) -> bool:
        loaded = self._agent.state.loaded
        if loaded is None or self._seen.error is not None:
            return False
        return digest(self._seen.text) == loaded.document.digest

    async def run(self) -> None:
        """Until cancelled."""
        from netctl.agent.storage.locations import read_document

        watch = FileWatch(self._path, read_document, slow_s=self._slow_s, quiet_s=self._quiet_s)
        try:
            if watch.blind is not None:
                warn(f"watch: {watch.blind}")
            self._seen = watch.look()
            known = self._seen
            if self._follows() and self._seen.error is None:
                self._error = f"{self._path} is not what this host lives by: `netctl apply` makes it so"
            while True:
                self._seen = known = await watch.change(known)
                while self._follows() and self._agent.somebody_confirms():
                    await asyncio.sleep(FREE_S)
                    self._seen = known = watch.look()
                if self._follows() and not self._in_force() and not await self._bring(self._seen):
                    known = UNSETTLED
        finally:
            await asyncio.to_thread(watch.close)

    def _follows(self) -> bool:
        """A host's first document is applied by hand; one that joined by invite has its mediator's word."""
        return self._agent.state.loaded is not None and self._agent.state.joined is None

    async def _bring(self, seen: Seen) -> bool:
        """Bring the host to what was saved. False: nothing was changed, and it may be another time."""
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
            say(f"{self._path} was saved and applied: {outcome.changed} changes")
        return True

    def _refuse(self, why: str) -> None:
        error = f"the save of {self._path} is not in force: {why}"
        if error != self._error:
            warn(error)
        self._error = error
