"""The state of this host, asked of the agent once for all browsers, and told to each browser as what has changed.

A page has two kinds of live content. Rows of peers, counts and the banner come as values in the events. All else that a
page shows comes with the page: each event names the version of that (`LiveFeed.version`), and a browser whose page is
of another version asks for its page again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import zlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from netctl.config import load_document
from netctl.config.load.pipeline import Loaded
from netctl.model.errors import NetctlError
from netctl.ui.brokerclient import BrokerClient
from netctl.ui.brokerwire import IsMediator, ReadDocument
from netctl.ui.pageaccess import Caller, Sight, callers, part_of
from netctl.ui.peerhistory import PeerHistory
from netctl.ui.peerview import Cells, cells, presence, totals, troubles
from netctl.wire.agentrequests import ArmedState, PeerState, Status, StatusReply, Watch

WATCHED_S = 1.0
"""Seconds between two requests to the agent while a browser looks and nothing changes. The agent tells of
changes."""
REST_S = 0.3
"""Least seconds between two requests to the agent, however much changes."""
ALONE_S = 5.0
"""Seconds between two requests while no browser looks: the next one finds plots."""
MAX_PARTS = 64
"""Members whose part of the document is kept: more than look at the same time."""
KEPT_BACK = "something is wrong with this host: its operators see what"
"""For readers who see only a part: what is wrong may name networks and members that they do not see."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a page shows: of the peers in sight all, one, or none (`peers` False).

    `document`: the digest of the document, or of the reader's part of it; None: there is none.
    """

    sight: Sight
    document: str | None
    peers: bool = True
    only: str | None = None
    """The name of the peer that the page is about, with all that is known of it."""

    def of(self, peers: list[PeerState]) -> list[PeerState]:
        """Those of the peers that the page shows."""
        if not self.peers:
            return []
        return [one for one in self.sight.peers(peers) if self.only is None or one.name == self.only]


@dataclass(slots=True)
class _Turn:
    """What the newest state has changed. `texts`: the event for each kind of page, encoded once for all who see
    the same.

    `presence`: a peer came, went, or changed between online and not; `version`: open pages may be out of date.
    """

    number: int = 0
    changed: frozenset[str] = frozenset()
    general: bool = False
    presence: bool = False
    version: bool = False
    texts: dict[tuple[Shown, bool], str] = field(default_factory=dict)


class LiveFeed:
    """Keeps the newest state of this host, and tells browsers what changes."""

    def __init__(self, broker: BrokerClient) -> None:
        self._broker = broker
        self._turn = _Turn()
        self._next: asyncio.Event = asyncio.Event()
        self._looking = self._at_peers = 0
        """How many streams are open, and how many of them are of pages that show peers."""
        self._seen = -1
        """The number of changes that the agent has told of last (`WatchReply.changes`)."""
        self._wake = asyncio.Event()
        self._one = asyncio.Lock()
        self._looked_at = float("-inf")
        self._looked = False
        """Whether somebody looked then, so that the agent asked for the presence of all."""
        self._cells: dict[str, Cells] = {}
        self._marks: dict[str, int] = {}
        """For each peer a checksum of what a table of peers shows of it beside its row."""
        self._of: tuple[str | None, tuple[tuple[str, ...], ...]] | None = None
        self.history = PeerHistory()
        self.status: StatusReply | None = None
        self.error: str | None = "the agent has not been asked yet"
        """Why `status` is missing or old; None: it is new."""
        self.loaded: Loaded | None = None
        """The document in force on this host; None: there is none, or the host joined by invite."""
        self._parts: dict[str, Loaded | None] = {}
        self.callers: dict[str, Caller] = {}
        self.mediates = False
        """Whether operators find a mediator on this machine."""

    async def run(self) -> None:
        """Ask the agent again and again. A NetctlError is shown, and does not end this."""
        while True:
            await self.fresh(0.0, look=self._looking > 0)
            if self._looking:
                await self._change()
                continue
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ALONE_S):
                    await self._wake.wait()

    async def _change(self) -> None:
        """Wait until something has changed, or `WATCHED_S` is over. Meanwhile the agent asks peers whether they
        answer."""
        began, before = time.monotonic(), self._seen
        # Without an agent, or with an old one that cannot tell of changes, the time alone decides.
        with contextlib.suppress(NetctlError):
            if self._at_peers:
                self._seen = (await self._broker.ask("agent", Watch(before, WATCHED_S))).changes
        rest_s = REST_S if self._seen != before else WATCHED_S
        await asyncio.sleep(max(began + rest_s - time.monotonic(), 0.0))

    async def fresh(self, age_s: float = WATCHED_S, *, look: bool = True) -> None:
        """Ask the agent, unless that was done less than `age_s` seconds ago. `look`: whether somebody looks."""
        async with self._one:
            if time.monotonic() - self._looked_at >= age_s or (look and not self._looked):
                await self._look(look)
                self._looked_at, self._looked = time.monotonic(), look

    async def _look(self, look: bool) -> None:
        was, general, marks, host = self._cells, self._general(), self._marks, self._host()
        try:
            self.mediates = (await self._broker.ask("broker", IsMediator())).here
            status = await self._broker.ask("agent", Status(look))
            await self._document(status)
        except NetctlError as error:
            self.error = str(error)
        else:
            self.error = None
            self.status = status
            self.history.observe(status.peers, time.monotonic())
            self._cells = {peer.name: cells(peer, self.history.last(peer.name)) for peer in status.peers}
            self._marks = {peer.name: _mark(peer.addresses, peer.stock) for peer in status.peers}
        changed = frozenset(name for name, one in self._cells.items() if was.get(name) != one)
        come_or_gone = was.keys() != self._cells.keys()
        otherwise = any(name in was and was[name].presence != self._cells[name].presence for name in changed)
        self._turn = _Turn(
            self._turn.number + 1,
            changed,
            general=general != self._general(),
            presence=otherwise or come_or_gone,
            version=marks != self._marks or host != self._host(),
        )
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
                return  # the file is being replaced: try again the next time
            self.loaded = loaded
        if digest != status.document.digest:
            self._parts.clear()
        self.callers = callers(self.loaded.document, status) if self.loaded is not None else {}
        self._of = of

    def _general(self) -> tuple[list[str], str | None]:
        """What every page shows: the banner, and whether there is a trial."""
        armed = self.armed
        return self._troubles(), armed.digest if armed is not None else None

    def _host(self) -> bytes:
        """What pages show of the host itself, encoded."""
        state, armed = self.status, self.armed
        if state is None:
            return b""
        digest = armed.digest if armed is not None else None
        told = state.member, state.networks, state.document, state.joined, digest, self.mediates
        return msgspec.json.encode(told)

    def _troubles(self) -> list[str]:
        if self.error is not None:
            old = self.status is not None
            return [f"{self.error}; what is shown of members is from before" if old else self.error]
        return troubles(self.status) if self.status is not None else []

    @property
    def armed(self) -> ArmedState | None:
        """The trial of a document that waits for somebody to keep it; None: there is none."""
        return self.status.armed if self.status is not None and self.error is None else None

    def banner(self, sight: Sight) -> list[str]:
        """What is wrong with the host, for a reader who may see `sight`."""
        wrong = self._troubles()
        return wrong if sight.whole or not wrong else [KEPT_BACK]

    async def part(self, member: str) -> Loaded | None:
        """The part of the document that a member may see; None: nothing."""
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
        """The row of a peer. Raises KeyError for a name that is no peer's."""
        return self._cells[name]

    def version(self, shown: Shown) -> str:
        """The version of what a page shows beside the values in events. A page with another version is out of
        date.

        Versions can only be compared, and only within this process. Empty: there is no state yet.
        """
        state = self.status
        if state is None:
            return ""
        sight = shown.sight
        networks = {name: state.networks[name] for name in sorted(sight.networks & state.networks.keys())}
        mine = [self.armed.digest if self.armed is not None else "", self.mediates] if sight.whole else []
        about = [state.member, shown.document, sorted(sight.networks), networks, mine]
        peers = shown.of(state.peers)
        if shown.only is not None:
            held: list[Any] = [_still(one) for one in peers]
        elif sight.whole:
            held = sorted((one.name, self._marks[one.name]) for one in peers)
        else:  # the marks cover addresses that this reader does not see
            held = sorted((one.name, _mark(one.addresses, one.stock)) for one in peers)
        return f"{_mark(about, held):08x}"

    async def watch(self, shown: Shown) -> AsyncGenerator[str, None]:
        """Events for a page that shows `shown`: one with everything, then one for each change."""
        self._looking += 1
        self._at_peers += shown.peers
        self._wake.set()
        seen = -1
        try:
            while True:
                coming, turn = self._next, self._turn
                if turn.number != seen:
                    text = self._event(shown, whole=turn.number != seen + 1 or seen < 0)
                    seen = turn.number
                    yield text
                await coming.wait()
        finally:
            self._looking -= 1
            self._at_peers -= shown.peers

    def _event(self, shown: Shown, *, whole: bool) -> str:
        turn = self._turn
        text = turn.texts.get((shown, whole))
        if text is None:
            text = turn.texts[shown, whole] = self._encoded(shown, turn, whole=whole)
        return text

    def _encoded(self, shown: Shown, turn: _Turn, *, whole: bool) -> str:
        told: dict[str, Any] = {}
        sight = shown.sight
        peers = shown.of(self.status.peers) if self.status is not None else []
        told["rows"] = {
            peer.name: _row(self._cells[peer.name]) for peer in peers if whole or peer.name in turn.changed
        }
        if whole or turn.general:
            told["banner"] = self.banner(sight)
            told["armed"] = self.armed.rolls_back_in_s if self.armed is not None and sight.whole else None
        if whole or turn.version or shown.only is not None:
            told["version"] = self.version(shown)
        if shown.only is not None:
            told["totals"] = {peer.name: totals(peer) for peer in peers}
        elif whole or turn.presence:
            told["online"] = online(peers, sight.networks)
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


def online(peers: list[PeerState], networks: frozenset[str]) -> dict[str, int]:
    """How many of the peers are online, by network."""
    counts = dict.fromkeys(sorted(networks), 0)
    for peer in peers:
        if presence(peer) == "online":
            for network in peer.addresses.keys() & counts.keys():
                counts[network] += 1
    return counts


def _mark(*values: Any) -> int:
    return zlib.crc32(msgspec.json.encode(values))


def _still(peer: PeerState) -> PeerState:
    """A peer without what changes all the time: what is in its row, and ages, which the browser counts on by
    itself."""
    return msgspec.structs.replace(
        peer, rtt_ms=None, since_s=None, last_handshake_s=None, rx_bytes=0, tx_bytes=0, answers=None
    )
