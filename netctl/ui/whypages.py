"""The pages that show who may reach whom, and why two members do or do not: the document's rule, and the path."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from netctl.config.load.pipeline import Loaded
from netctl.config.reach.rulelookup import flows, parse_target
from netctl.model.errors import NetctlError
from netctl.ui.brokerclient import BrokerClient
from netctl.ui.brokerwire import AskFirewall, CheckPath, PathCheck
from netctl.ui.livefeed import LiveFeed
from netctl.ui.middleware import known_of
from netctl.ui.pages import Page, loaded_of, seen_of
from netctl.ui.peerview import own_nat
from netctl.ui.reachview import matrix
from netctl.wire.agentrequests import Doctor, PeerState

MAX_NAMES = 2000
"""Names of members that a field offers; others must be typed."""


@dataclass(frozen=True, slots=True)
class Question:
    """From whom to whom, on which port; empty: not said. `failed`: why there is no answer, or empty."""

    src: str
    dst: str
    on: str
    proto: str | None
    port: int | None
    failed: str

    @classmethod
    def of(cls, said: Mapping[str, str], loaded: Loaded | None) -> Self:
        """The question in the fields of a form."""
        src, dst, on = (said.get(name, "").strip() for name in ("from", "to", "on"))
        failed, proto, port = "", None, None
        try:
            _, proto, port = parse_target(f"x:{on}" if on else "x")
        except NetctlError:
            failed = f"'{on}' is no port: say 22, tcp/22, udp/53 or icmp"
        if loaded is not None:
            for name in (src, dst):
                if name and name not in loaded.document.members:
                    failed = f"there is no member '{name}'"
        if not failed and src and src == dst:
            failed = "a host reaches itself: name two members"
        return cls(src, dst, on, proto, port, failed)

    @property
    def whole(self) -> bool:
        """Whether the question can be answered."""
        return bool(self.src and self.dst and not self.failed)


class WhyPages:
    """The routes ``/reach`` and below ``/why``."""

    def __init__(self, broker: BrokerClient, feed: LiveFeed, page: Page) -> None:
        self._broker = broker
        self._feed = feed
        self._page = page
        self.routes = (
            Route("/reach", self._reach),
            Route("/why", self._why),
            Route("/why/check", self._check, methods=["POST"]),
        )

    async def _reach(self, request: Request) -> Response:
        loaded = loaded_of(request)
        if loaded is None:
            return self._page(request, "reach.html", known=False)
        document, asked = loaded.document, Question.of(request.query_params, loaded)
        src, dst, failed, proto, port = asked.src, asked.dst, asked.failed, asked.proto, asked.port
        answers = list(flows(loaded, src, dst, proto, port)) if asked.whole else None
        matrices = [
            await asyncio.to_thread(matrix, loaded, network, proto, port, src if not dst else "")
            for network in document.networks.values()
        ]
        return self._page(
            request,
            "reach.html",
            known=True,
            src=src,
            dst=dst,
            on=asked.on,
            failed=failed,
            names=list(document.members)[:MAX_NAMES],
            answers=answers,
            matrices=matrices,
        )

    async def _why(self, request: Request) -> Response:
        return await self._answer(request, request.query_params)

    async def _check(self, request: Request) -> Response:
        form = known_of(request).form
        peer = form.get("peer", "")
        try:
            checked = await self._broker.ask("broker", CheckPath(peer))
        except NetctlError as error:
            return await self._answer(request, form, 422, failed=str(error))
        return await self._answer(request, form, checked=checked)

    async def _answer(
        self,
        request: Request,
        said: Mapping[str, str],
        status: int = 200,
        *,
        checked: PathCheck | None = None,
        failed: str = "",
    ) -> HTMLResponse:
        seen, loaded, state = seen_of(request), loaded_of(request), self._feed.status
        peers = {peer.name: peer for peer in seen.peers(state.peers)} if state is not None else {}
        asked = Question.of(said, loaded)
        own = state.member if state is not None else None
        if loaded is None and asked.whole and not {asked.src, asked.dst} <= {own, *peers}:
            asked = Question.of({**said, "to": ""}, None)
            failed = failed or "this host knows only its own way to its peers"
        answers = None
        if loaded is not None and asked.whole:
            answers = list(flows(loaded, asked.src, asked.dst, asked.proto, asked.port))
        other = asked.dst if asked.src == own else asked.src if asked.dst == own else ""
        peer = peers.get(other) if asked.whole else None
        doctor = firewall = None
        if answers is not None and seen.whole and any(one.allowed for one in answers):
            wish = AskFirewall(asked.src, asked.dst, asked.proto, asked.port)
            firewall = await self._broker.ask("broker", wish)
        if peer is not None and seen.whole:
            doctor = await self._broker.ask("agent", Doctor())
        names = list(loaded.document.members) if loaded is not None else [*([own] if own else []), *peers]
        return self._page(
            request,
            "why.html",
            status,
            only=peer.name if peer is not None else None,
            asked=asked,
            names=names[:MAX_NAMES],
            own=own,
            answers=answers,
            firewall=firewall,
            peer=peer,
            cells=self._feed.cells(peer.name) if peer is not None else None,
            nat=own_nat(doctor) if doctor is not None else None,
            mapped=doctor.port_mapping if doctor is not None else None,
            checked=checked,
            silent=_silent(loaded, own, peer) if checked is not None and not checked.received else "",
            operator=known_of(request).session.operator,
            failed=failed or asked.failed,
        )


def _silent(loaded: Loaded | None, own: str | None, peer: PeerState | None) -> str:
    """Why the document keeps a peer from answering pings; empty: it does not."""
    if loaded is None or own is None or peer is None:
        return ""
    answers = flows(loaded, own, peer.name, "icmp", None)
    if not answers or any(one.allowed for one in answers):
        return ""
    return f"the document lets no ping from {own} to {peer.name} pass"
