"""The pages about the mediator, for operators on its machine: invites and members, its state, and its audit
log."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import segno
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from netctl.model.errors import NetctlError
from netctl.ui.brokerclient import BrokerClient
from netctl.ui.brokerwire import ListCarried
from netctl.ui.livefeed import LiveFeed
from netctl.ui.middleware import known_of
from netctl.ui.pages import Page, utc
from netctl.ui.relayedpairs import picture
from netctl.wire import operatorrequests as m
from netctl.wire.jsonline import Request as Wish

QUIET = 4
"""Width of the quiet zone around a QR code, in modules."""
MAX_LINES = 500
"""Lines of the audit log in the page; a search or a shorter time finds the others."""
MAX_READ = 20_000
"""Lines that one request reads at most, which takes half a second. `netctl-mediator audit` reads all."""
DAY_S = 86_400
SINCE = {"1": "a day", "7": "a week", "31": "a month"}
"""How far back the audit log is shown: days, and words."""
MEMBERSHIP: dict[str, tuple[Callable[[str], Wish[str]], str]] = {
    "approve": (m.Approve, "{} is in"),
    "reject": (m.Reject, "{} is rejected, and its key with it"),
    "revoke": (m.Revoke, "{} is shut out: its tunnels go away everywhere now"),
    "restore": (m.Restore, "{} may come back: a member of the document at once, another with a new invite"),
}
"""By the name of a button: the request to the mediator, and what the page says once it is done."""


class MediatorPages:
    """The routes below ``/invites`` and ``/mediator``."""

    def __init__(self, broker: BrokerClient, feed: LiveFeed, page: Page) -> None:
        self._broker = broker
        self._feed = feed
        self._page = page
        self.routes = (
            Route("/invites", self._invites),
            Route("/invites/new", self._invite, methods=["POST"]),
            Route("/invites/revoke", self._revoke_invite, methods=["POST"]),
            Route("/invites/members", self._membership, methods=["POST"]),
            Route("/mediator", self._mediator),
            Route("/mediator/lift", self._lift, methods=["POST"]),
        )

    def _must_be_here(self, request: Request) -> None:
        if not (self._feed.mediates and known_of(request).session.operator):
            raise HTTPException(404)

    async def _invites(self, request: Request) -> Response:
        return await self._invites_page(request)

    async def _invites_page(
        self,
        request: Request,
        status: int = 200,
        *,
        made: m.NewInvite | None = None,
        said: str = "",
        failed: str = "",
    ) -> Response:
        self._must_be_here(request)
        members = await self._broker.ask("mediator", m.ListMembers())
        invites = await self._broker.ask("mediator", m.ListInvites())
        document = self._feed.loaded.document if self._feed.loaded is not None else None
        open_for = (
            [n.name for n in document.networks.values() if n.join.invites] if document is not None else None
        )
        return self._page(
            request,
            "invites.html",
            status,
            waiting=[row for row in members if row.state == "pending"],
            members=[row for row in members if row.state != "pending"],
            invites=invites,
            open_for=open_for,
            now=time.time(),
            made=made,
            **_code(made.invite if made is not None else ""),
            said=said,
            failed=failed,
        )

    async def _invite(self, request: Request) -> Response:
        form = known_of(request).form
        try:
            uses = int(form.get("uses", "1"))
            wish = m.CreateInvite(
                form.get("network", ""), uses, form.get("expires"), form.get("name") or None
            )
            made = await self._broker.ask("mediator", wish, by=known_of(request).session.who or "")
        except ValueError:
            return await self._invites_page(request, 422, failed="how many hosts may use it is a number")
        except NetctlError as error:
            return await self._invites_page(request, 422, failed=str(error))
        return await self._invites_page(request, made=made)

    async def _revoke_invite(self, request: Request) -> Response:
        number = known_of(request).form.get("id", "")
        return await self._done(
            request, m.RevokeInvite(number), "invite {} is good for nothing now; who came with it stays"
        )

    async def _membership(self, request: Request) -> Response:
        form = known_of(request).form
        action = MEMBERSHIP.get(form.get("action", ""))
        if action is None:
            return await self._invites_page(request, 422, failed="there is no such thing to do with a member")
        make, words = action
        return await self._done(request, make(form.get("who", "")), words)

    async def _done(self, request: Request, wish: Wish[str], words: str) -> Response:
        try:
            name = await self._broker.ask("mediator", wish, by=known_of(request).session.who or "")
        except NetctlError as error:
            return await self._invites_page(request, 422, failed=str(error))
        return await self._invites_page(request, said=words.format(name))

    # -- state and audit log --------------------------------------------------------------------------

    async def _mediator(self, request: Request) -> Response:
        return await self._mediator_page(request)

    async def _mediator_page(
        self, request: Request, status: int = 200, *, said: str = "", failed: str = ""
    ) -> HTMLResponse:
        self._must_be_here(request)
        asked = request.query_params
        words, since = asked.get("q", ""), asked.get("since", "7")
        since = since if since in SINCE else "7"
        found, more = await self._audited(words, int(time.time()) - int(since) * DAY_S)
        return self._page(
            request,
            "mediator.html",
            status,
            state=await self._broker.ask("mediator", m.ServerStatusRequest()),
            carried=(carried := await self._broker.ask("broker", ListCarried())),
            picture=picture(carried.pairs) if carried is not None else None,
            bans=await self._broker.ask("mediator", m.ListBans()),
            lines=[(row, utc(row.at_s)) for row in found],
            more=more,
            q=words,
            since=since,
            choices=SINCE,
            said=said,
            failed=failed,
        )

    async def _audited(self, words: str, since_s: int) -> tuple[list[m.AuditRow], bool]:
        """The lines with all of `words`, the newest first, and whether there are more than were read or are
        shown."""
        wanted = words.lower().split()
        found: deque[m.AuditRow] = deque(maxlen=MAX_LINES)
        after = read = matched = 0
        while rows := await self._broker.ask("mediator", m.ListAudit(since_s, after)):
            for row in rows:
                text = " ".join((row.who, row.what, row.subject, row.detail)).lower()
                if all(word in text for word in wanted):
                    found.append(row)
                    matched += 1
            after, read = rows[-1].number, read + len(rows)
            if read >= MAX_READ:
                break
        return list(reversed(found)), matched > MAX_LINES or read >= MAX_READ

    async def _lift(self, request: Request) -> Response:
        source = known_of(request).form.get("source", "")
        try:
            done = await self._broker.ask("mediator", m.LiftBan(source))
        except NetctlError as error:
            return await self._mediator_page(request, 422, failed=str(error))
        return await self._mediator_page(request, said=f"nothing is held against {done.source} any more")


def _code(text: str) -> dict[str, Any]:
    """A QR code as the attribute `d` of an SVG path, one unit for each module, with a quiet zone (ISO/IEC
    18004)."""
    if not text:
        return {"code": "", "code_size": 0}
    rows = segno.make(text, error="m", micro=False).matrix
    dark = (
        f"M{x + QUIET} {y + QUIET}h1v1h-1z" for y, row in enumerate(rows) for x, one in enumerate(row) if one
    )
    return {"code": "".join(dark), "code_size": len(rows) + 2 * QUIET}
