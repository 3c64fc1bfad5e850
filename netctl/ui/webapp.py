"""The application: its routes, the pages about networks and this host, sign-in, live events and static files."""

from __future__ import annotations

import asyncio
import json
import math
import mimetypes
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import DictLoader, Environment, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from netctl.config.load.pipeline import Loaded
from netctl.config.load.schema import SCHEMA_NAME, load_schema
from netctl.model.errors import NetctlError
from netctl.model.forpeople import age, size
from netctl.ui import peerview
from netctl.ui.brokerclient import BrokerClient
from netctl.ui.brokerwire import Redeem
from netctl.ui.documentpages import DocumentPages
from netctl.ui.livefeed import LiveFeed, Shown, online
from netctl.ui.mediatorpages import MediatorPages
from netctl.ui.middleware import AccessMiddleware, Known, Receive, Refusal, Scope, Send, known_of
from netctl.ui.pageaccess import Caller, Sight, sight
from netctl.ui.pages import loaded_of, seen_of, utc
from netctl.ui.peerhistory import WINDOW_S
from netctl.ui.plots import Points, svg_path
from netctl.ui.proxylogin import ProxyLogin
from netctl.ui.websessions import Session
from netctl.ui.whypages import WhyPages
from netctl.wire.agentrequests import Doctor, PeerState, Timeline

HERE = Path(__file__).parent
MAX_GRAPH = 60
"""Members in a picture with lines; with more it has tiles."""
MAX_PLOTTED = 300
"""Rows that have plots in the HTML: plots are four fifths of a row's size, and the script draws them anyway."""
PLOT = {"width": 120, "height": 24}
"""Size of a plot, in the units of its SVG."""
KEEPALIVE_S = 15.0
"""Seconds without news after which a stream is ended; the browser opens it again."""
PROXIED_S = 60.0
"""Seconds after which a stream through a reverse proxy is ended. The browser opens it again, and the proxy can
refuse a
user who has logged out."""
MAX_HAPPENINGS = 500
"""Entries of the time line in the page; a search finds the others."""
KINDS = {"path": "path", "member": "member", "apply": "apply", "host": "this host"}
"""The kinds of entries of the time line, and the words for them."""


class Pages:
    """All pages of one server, behind the middleware that checks requests."""

    def __init__(
        self, broker: BrokerClient, hosts: tuple[str, ...] = (), proxy: ProxyLogin | None = None
    ) -> None:
        self._broker = broker
        self.feed = LiveFeed(broker)
        self._static = {
            path.name: (path.read_bytes(), mimetypes.guess_type(path.name)[0] or "application/octet-stream")
            for path in (HERE / "static").iterdir()
        }
        schema = json.dumps(load_schema(), separators=(",", ":")).encode()
        self._static[SCHEMA_NAME] = (schema, "application/schema+json")
        # Read now: the server can open no file once it has given up its rights.
        texts = {path.name: path.read_text(encoding="utf-8") for path in (HERE / "templates").glob("*.html")}
        self._templates = Environment(
            loader=DictLoader(texts),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(age=age, size=size, view=peerview, now=time.time)
        for name in texts:
            self._templates.get_template(name)  # compiles it, while files can be read
        routes = [
            Route("/", self._networks),
            Route("/members/{name}", self._member),
            Route("/doctor", self._doctor),
            Route("/timeline", self._timeline),
            *WhyPages(broker, self.feed, self._page).routes,
            *DocumentPages(broker, self.feed, self._page).routes,
            *MediatorPages(broker, self.feed, self._page).routes,
            Route("/live", self._live),
            Route("/login", self._login),
            Route("/logout", self._logout, methods=["POST"]),
            Route("/static/{name}", self._file),
        ]
        self.routes = tuple(routes)
        errors: dict[Any, Any] = {
            HTTPException: self._went_wrong,
            NetctlError: self._failed,
            Exception: self._broke,
        }
        self._routed = Starlette(routes=routes, exception_handlers=errors)
        # A redirect would lead to this server's own address, which is not where a proxy shows the page.
        self._routed.router.redirect_slashes = False
        self.access = AccessMiddleware(self._in_sight, self._refuse, self._caller, hosts, proxy)

    def _caller(self, address: str) -> Caller | None:
        return self.feed.callers.get(address)

    async def _in_sight(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a page. Puts what the reader may see into the request's state, which is all that pages show."""
        known: Known | None = scope["state"].get("known")
        if known is not None:
            await self.feed.fresh()
            scope["state"]["sight"], scope["state"]["loaded"] = await self._sight(known.session)
        await self._routed(scope, receive, send)

    async def _sight(self, session: Session) -> tuple[Sight, Loaded | None]:
        """What a session may see of this host and of its document."""
        if session.member is None or session.operator:
            return sight(self.feed.status, session, None), self.feed.loaded
        part = await self.feed.part(session.member)
        return sight(self.feed.status, session, part), part

    def _page(
        self,
        request: Request,
        template: str,
        status: int = 200,
        *,
        peers: bool = False,
        only: str | None = None,
        **values: Any,
    ) -> HTMLResponse:
        known: Known | None = request.scope["state"].get("known")
        session = known.session if known is not None else None
        seen: Sight = request.scope["state"].get("sight", Sight(frozenset(), frozenset()))
        shown = Shown(seen, _digest(request.scope["state"].get("loaded")), peers or only is not None, only)
        state, armed = self.feed.status, self.feed.armed
        common = {
            "session": session,
            "status_code": status,
            "csrf": session.csrf if session is not None else "",
            "here": request.url.path,
            "root_path": request.scope["state"].get("root_path", ""),
            "banner": self.feed.banner(seen) if session is not None else [],
            "stream": urlencode({"peer": only} if only is not None else {} if peers else {"rows": "0"}),
            "version": self.feed.version(shown) if session is not None else "",
            "whole": seen.whole,
            "armed": armed.rolls_back_in_s if armed is not None else None,
            "mediates": self.feed.mediates and session is not None and session.operator,
            "host": state.member if state is not None and session is not None else None,
        }
        text = self._templates.get_template(template).render(**common, **values)
        return HTMLResponse(text, status)

    async def _refuse(self, refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        page = self._page(request, "refused.html", refusal.status, text=refusal.text)
        await page(scope, receive, send)

    async def _went_wrong(self, request: Request, error: HTTPException) -> Response:
        text = "there is no such page" if error.status_code == 404 else error.detail
        return self._page(request, "refused.html", error.status_code, text=text)

    async def _failed(self, request: Request, error: NetctlError) -> Response:
        return self._page(request, "refused.html", 502, text=str(error))

    async def _broke(self, request: Request, error: Exception) -> Response:
        """Show that the page failed. Starlette raises the error again, so that the server logs it."""
        text = f"the page itself failed ({type(error).__name__}); what `netctl ui` printed says where"
        return self._page(request, "refused.html", 500, text=text)

    # -- sign in and out --------------------------------------------------------------------------------------------

    async def _login(self, request: Request) -> Response:
        try:
            redeemed = await self._broker.ask("broker", Redeem(request.query_params.get("token", "")))
        except NetctlError as error:
            return self._page(request, "refused.html", 401, text=str(error))
        self.access.sign_in(request.scope, operator=redeemed.operator)
        return self._page(request, "welcome.html")

    async def _logout(self, request: Request) -> Response:
        self.access.sessions.end(known_of(request).cookie)
        return self._page(request, "refused.html", 200, text="you are signed out")

    # -- networks and this host ---------------------------------------------------------------------------------

    async def _networks(self, request: Request) -> Response:
        state = self.feed.status
        words, group = request.query_params.get("q", ""), request.query_params.get("group", "")
        if state is None:
            return self._page(
                request, "networks.html", peers=True, state=None, networks=[], groups=[], q=words, group=group
            )
        seen, loaded = seen_of(request), loaded_of(request)
        peers = seen.peers(state.peers)
        counts, networks = online(peers, seen.networks), []
        for name in (name for name in state.networks if name in seen.networks):
            members = [peer for peer in peers if name in peer.addresses]
            found = [p for p in members if peerview.matches(p, words, _groups(loaded, p.name), group)]
            networks.append(
                {
                    "name": name,
                    "state": state.networks[name],
                    "online": counts[name],
                    "known": len(members),
                    "rows": [self._row(loaded, peer, index) for index, peer in enumerate(found)],
                    "picture": _picture(members) if len(members) <= MAX_GRAPH else None,
                }
            )
        groups = sorted({group for peer in peers for group in _groups(loaded, peer.name)})
        return self._page(
            request,
            "networks.html",
            peers=True,
            state=state,
            networks=networks,
            groups=groups,
            q=words,
            group=group,
        )

    def _row(self, loaded: Loaded | None, peer: PeerState, index: int) -> dict[str, Any]:
        return {
            "peer": peer,
            "cells": self.feed.cells(peer.name),
            "groups": _groups(loaded, peer.name),
            "plots": self._plots(peer.name) if index < MAX_PLOTTED else {"rtt": "", "rx": "", "tx": ""},
        }

    def _plots(self, name: str) -> dict[str, str]:
        now = time.monotonic()
        past = self.feed.history.of(name, now)
        values: dict[str, Points] = {
            "rtt": [(one.at, one.rtt_ms) for one in past],
            "rx": [(one.at, one.rx_rate) for one in past],
            "tx": [(one.at, one.tx_rate) for one in past],
        }
        return {
            kind: svg_path(points, now=now, window_s=WINDOW_S, **PLOT)
            for kind, points in values.items()
            if any(value for _, value in points) or kind == "rtt"
        }

    async def _member(self, request: Request) -> Response:
        state, seen = self.feed.status, seen_of(request)
        name = request.path_params["name"]
        peers = seen.peers(state.peers) if state is not None else []
        peer = next((peer for peer in peers if peer.name == name), None)
        if peer is None:
            raise HTTPException(404)
        shown = {network: held for network, held in peer.addresses.items() if network in seen.networks}
        row = self._row(loaded_of(request), peer, 0)
        return self._page(request, "member.html", only=name, row=row, addresses=shown)

    async def _doctor(self, request: Request) -> Response:
        if not seen_of(request).whole:
            raise HTTPException(403, "what is wrong with this host is for its operators")
        return self._page(request, "doctor.html", doctor=await self._broker.ask("agent", Doctor()))

    async def _timeline(self, request: Request) -> Response:
        if not seen_of(request).whole:
            raise HTTPException(403, "what happened on this host is for its operators")
        words, kind = request.query_params.get("q", ""), request.query_params.get("kind", "")
        happened = await self._broker.ask("agent", Timeline())
        found = [
            one
            for one in happened
            if (not kind or one.kind == kind)
            and all(word in one.text.lower() for word in words.lower().split())
        ]
        return self._page(
            request,
            "timeline.html",
            rows=[(one, utc(one.at_s)) for one in found[:MAX_HAPPENINGS]],
            more=max(len(found) - MAX_HAPPENINGS, 0),
            any=bool(happened),
            q=words,
            kind=kind,
            kinds=KINDS,
        )

    # -- live events and static files ---------------------------------------------------------------------------

    async def _live(self, request: Request) -> Response:
        known, asked = known_of(request), request.query_params
        address = request.client.host if request.client is not None else ""
        began = seen_of(request), _digest(loaded_of(request))
        only = asked.get("peer")
        shown = Shown(*began, peers=only is not None or asked.get("rows") != "0", only=only)
        until = time.monotonic() + PROXIED_S if known.session.user is not None else math.inf

        async def good() -> bool:
            if time.monotonic() >= until or not self.access.still(known, address):
                return False
            seen, loaded = await self._sight(known.session)
            return (seen, _digest(loaded)) == began

        async def events() -> AsyncIterator[str]:
            news = self.feed.watch(shown)
            try:
                while await good():
                    try:
                        async with asyncio.timeout(KEEPALIVE_S):
                            text = await anext(news)
                    except TimeoutError:
                        return  # the browser comes again by itself
                    yield text  # outside of the time limit: how long a reader takes is no silence of ours
            finally:
                await news.aclose()

        return StreamingResponse(
            events(), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
        )

    async def _file(self, request: Request) -> Response:
        found = self._static.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        return Response(found[0], media_type=found[1], headers={"cache-control": "max-age=300"})


def _digest(loaded: Loaded | None) -> str | None:
    return loaded.document.digest if loaded is not None else None


def _groups(loaded: Loaded | None, name: str) -> list[str]:
    if loaded is None or name not in loaded.document.members:
        return []
    return sorted(loaded.document.members[name].groups)


def _picture(members: list[PeerState]) -> list[dict[str, Any]]:
    """Where each member stands in the picture: this host in the middle, the others around it."""
    placed = []
    for index, peer in enumerate(members):
        turn = 2 * math.pi * index / max(len(members), 1) - math.pi / 2
        x, y = 50 + 38 * math.cos(turn), 50 + 38 * math.sin(turn)
        placed.append({"peer": peer, "x": round(x, 1), "y": round(y, 1), "left": x < 49, "right": x > 51})
    return placed
