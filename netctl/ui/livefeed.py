"""What the agent says, asked for once for all who look, and told to each as differences."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from netctl.config import load_document
from netctl.config.load.pipeline import Loaded
from netctl.model.errors import NetctlError
from netctl.ui.brokerclient import BrokerClient
from netctl.ui.brokerwire import IsMediator, ReadDocument
from netctl.ui.pageaccess import Caller, Sight, callers, part_of
from netctl.ui.peerhistory import PeerHistory
from netctl.ui.peerview import Cells, cells, troubles
from netctl.wire.agentrequests import ArmedState, Status, StatusReply, Watch

WATCHED_S = 1.0
"""Between two looks while somebody looks and nothing changes; at what changes, as soon as the agent says so."""
REST_S = 0.3
"""Between two looks however much changes."""
ALONE_S = 5.0
"""While nobody does: for the plots of whoever comes next."""
MAX_PARTS = 64
"""Members whose part of the document is kept ready: as many as look at once, and some."""
KEPT_BACK = "something is wrong with this host: its operators see what"
"""For who sees only its own part: what is wrong names networks and members of others."""


@dataclass(slots=True)
class _Turn:
    """What one look has changed. `texts`: by what somebody may see, encoded once for all who see the same."""

    number: int = 0
    changed: frozenset[str] = frozenset()
    general: bool = False
    texts: dict[tuple[Sight, bool], str] = field(default_factory=dict)


class LiveFeed:
    """The newest state of this host."""

    def __init__(self, broker: BrokerClient) -> None:
        self._broker = broker
        self._turn = _Turn()
        self._next: asyncio.Event = asyncio.Event()
        self._looking = self._at_peers = 0
        """Who looks, and how many of them at a page that shows peers."""
        self._seen = -1
        """What the agent has told of changes."""
        self._wake = asyncio.Event()
        self._one = asyncio.Lock()
        self._looked_at = float("-inf")
        self._cells: dict[str, Cells] = {}
        self._of: tuple[str | None, tuple[tuple[str, ...], ...]] | None = None
        self.history = PeerHistory()
        self.status: StatusReply | None = None
        self.error: str | None = "the agent has not been asked yet"
        """Why there is no newest state."""
        self.loaded: Loaded | None = None
        """The document that this host lives by."""
        self._parts: dict[str, Loaded | None] = {}
        self.callers: dict[str, Caller] = {}
        self.mediates = False
        """Whether a mediator is on this machine, for operators."""

    async def run(self) -> None:
        """Look for ever. A NetctlError is shown, and looked past."""
        while True:
            await self.fresh(0.0)
            if self._looking:
                await self._change()
                continue
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ALONE_S):
                    await self._wake.wait()

    async def _change(self) -> None:
        """Until something has changed, or it is time. The agent has peers asked meanwhile whether they answer."""
        began, before = time.monotonic(), self._seen
        # Without an agent, and with one of before it could tell, it is time once it is.
        with contextlib.suppress(NetctlError):
            if self._at_peers:
                self._seen = (await self._broker.ask("agent", Watch(before, WATCHED_S))).changes
        rest_s = REST_S if self._seen != before else WATCHED_S
        await asyncio.sleep(max(began + rest_s - time.monotonic(), 0.0))

    async def fresh(self, age_s: float = WATCHED_S) -> None:
        """Look, unless somebody has within so many seconds."""
        async with self._one:
            if time.monotonic() - self._looked_at >= age_s:
                await self._look()
                self._looked_at = time.monotonic()

    async def _look(self) -> None:
        was, general = self._cells, self._general()
        try:
            self.mediates = (await self._broker.ask("broker", IsMediator())).here
            status = await self._broker.ask("agent", Status())
            await self._document(status)
        except NetctlError as error:
            self.error = str(error)
        else:
            self.error = None
            self.status = status
            self.history.observe(status.peers, time.monotonic())
            self._cells = {peer.name: cells(peer, self.history.last(peer.name)) for peer in status.peers}
        changed = frozenset(name for name, one in self._cells.items() if was.get(name) != one)
        self._turn = _Turn(self._turn.number + 1, changed, general != self._general())
        self._next.set()
        self._next = asyncio.Event()

    async def _document(self, status: StatusReply) -> None:
        held = [tuple(sorted(texts)) for peer in status.peers for texts in peer.addresses.values()]
        of = status.document.digest, tuple(held)
        if of == self._of:
            return
        digest = self._of[0] if self._of is not None else None
        if status.document.digest is None or status.joined is not None:
            self.loaded = None
        elif digest != status.document.digest or self.loaded is None:
            text = await self._broker.ask("broker", ReadDocument())
            accepted = text.accepted
            loaded = await asyncio.to_thread(load_document, accepted, text.file) if accepted else None
            if loaded is not None and loaded.document.digest != status.document.digest:
                return  # it is just being replaced: look again
            self.loaded = loaded
        if digest != status.document.digest:
            self._parts.clear()
        self.callers = callers(self.loaded.document, status) if self.loaded is not None else {}
        self._of = of

    def _general(self) -> tuple[list[str], str | None]:
        """What each page shows, whichever it is."""
        armed = self.armed
        return self._troubles(), armed.digest if armed is not None else None

    def _troubles(self) -> list[str]:
        if self.error is not None:
            return [self.error]
        return troubles(self.status) if self.status is not None else []

    @property
    def armed(self) -> ArmedState | None:
        """An apply that waits for somebody to keep it."""
        return self.status.armed if self.status is not None and self.error is None else None

    def banner(self, sight: Sight) -> list[str]:
        """What is wrong, for somebody who sees this."""
        wrong = self._troubles()
        return wrong if sight.whole or not wrong else [KEPT_BACK]

    async def part(self, member: str) -> Loaded | None:
        """What a member may see of the document."""
        loaded = self.loaded
        if loaded is None:
            return None
        if member not in self._parts:
            part = await asyncio.to_thread(part_of, loaded.document, member)
            if self.loaded is not loaded:
                return part
            while len(self._parts) >= MAX_PARTS:
                del self._parts[next(iter(self._parts))]
            self._parts[member] = part
        return self._parts[member]

    def cells(self, name: str) -> Cells:
        """A peer's row."""
        return self._cells[name]

    async def watch(self, sight: Sight) -> AsyncGenerator[str, None]:
        """Events for somebody who may see this: all at first, then what has changed."""
        self._looking += 1
        self._at_peers += bool(sight.networks)
        self._wake.set()
        seen = -1
        try:
            while True:
                coming, turn = self._next, self._turn
                if turn.number != seen:
                    text = self._event(sight, whole=turn.number != seen + 1 or seen < 0)
                    seen = turn.number
                    yield text
                await coming.wait()
        finally:
            self._looking -= 1
            self._at_peers -= bool(sight.networks)

    def _event(self, sight: Sight, *, whole: bool) -> str:
        turn = self._turn
        text = turn.texts.get((sight, whole))
        if text is None:
            text = turn.texts[sight, whole] = self._encoded(sight, turn, whole=whole)
        return text

    def _encoded(self, sight: Sight, turn: _Turn, *, whole: bool) -> str:
        told: dict[str, Any] = {}
        peers = sight.peers(self.status.peers) if self.status is not None else []
        told["rows"] = {
            peer.name: _row(self._cells[peer.name]) for peer in peers if whole or peer.name in turn.changed
        }
        if whole or turn.general:
            told["banner"] = self.banner(sight)
            told["armed"] = self.armed.rolls_back_in_s if self.armed is not None and sight.whole else None
        if whole:
            now = time.monotonic()
            told["past"] = {
                peer.name: [
                    [round(one.at - now, 1), one.rtt_ms, round(one.rx_rate), round(one.tx_rate)]
                    for one in self.history.of(peer.name, now)
                ]
                for peer in peers
            }
        event = "all" if whole else "changes"
        return f"event: {event}\ndata: {json.dumps(told, separators=(',', ':'))}\n\n"


def _row(one: Cells) -> list[Any]:
    return [
        one.presence,
        one.path,
        one.path_text,
        one.rtt,
        one.received,
        one.sent,
        one.handshake,
        list(one.numbers),
    ]
