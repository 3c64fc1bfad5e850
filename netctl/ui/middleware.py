"""ASGI middleware before every page: who sends this request, and whether they may do that. No page avoids it.

What each check is against: the Host header, DNS rebinding; the Origin of a change and its token, other sites (CSRF);
SameSite=Strict and HttpOnly, cookies that are carried off; the Content Security Policy, scripts that somebody got into
a page; the bounds, whoever sends without end.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request

from netctl.ui.pageaccess import LOOPBACK_HOSTS, Caller, address_of, host_of, same_origin
from netctl.ui.proxylogin import ProxyLogin, ProxyRefusedError
from netctl.ui.websessions import Session, Sessions, carries

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "netctl"
SAFE = frozenset({"GET", "HEAD"})
MAX_FORM = 64 * 1024
"""Bytes. Our forms have a few short fields, and all of one is read before the token in it can be checked."""
MAX_DOCUMENT = 512 * 1024
"""Bytes of a document that is edited in the page: some 4,000 members. A larger one is edited in an editor."""
MAX_DOCUMENT_FORM = 3 * MAX_DOCUMENT + MAX_FORM
"""An operator's: each byte may be sent as three (percent-encoding)."""
BODY_S = 30.0
"""For a form to arrive whole."""
MAX_FIELDS = 64
FREE = ("/static/", "/login")
"""What is served to whoever reaches the port: nothing of it says anything about this host."""
POLICY = (
    "default-src 'none'; script-src {0}; style-src {0}; img-src {0}; connect-src {0}; form-action {0}; "
    "frame-ancestors 'none'; base-uri 'none'"
)
"""Content Security Policy (Level 3) of a page that uses only what is below a place: ``'self'`` or a URL."""
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    # Not "no-referrer": with it browsers send `Origin: null` with a form of our own (Fetch standard).
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
)
STORED = (b"cache-control", b"no-store")


@dataclass(frozen=True, slots=True)
class Known:
    """Who asks. `form`: what a change says, its token checked."""

    session: Session
    cookie: str
    form: dict[str, str]


def known_of(request: Request) -> Known:
    """Who asks for a page that wants to know."""
    known: Known = request.scope["state"]["known"]
    return known


@dataclass(frozen=True, slots=True)
class Refusal(Exception):
    """Why a request goes no further, for a person."""

    status: int
    text: str


class AccessMiddleware:
    """Authenticates and authorizes requests: those allowed reach the pages with `Known` in their state."""

    def __init__(
        self,
        app: App,
        refused: Callable[[Refusal, Scope, Receive, Send], Awaitable[None]],
        caller_at: Callable[[str], Caller | None],
        hosts: Iterable[str] = (),
        proxy: ProxyLogin | None = None,
    ) -> None:
        """`refused`: the page that says why not; `caller_at`: the member at an overlay address; `hosts`: our names."""
        self._app = app
        self._refused = refused
        self._caller_at = caller_at
        self._hosts = LOOPBACK_HOSTS | {name.lower() for name in hosts}
        self._proxy = proxy
        self.sessions = Sessions()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        cookies: list[bytes] = []
        store = not scope["path"].startswith("/static/")

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                place = (
                    f"{self._proxy.origin}{state['root_path']}/"
                    if self._proxy and state["root_path"]
                    else "'self'"
                )
                policy = (b"content-security-policy", POLICY.format(place).encode())
                more = [policy, *HEADERS, *((b"set-cookie", one) for one in cookies)]
                message = {**message, "headers": [*message["headers"], *more, *((STORED,) if store else ())]}
            await send(message)

        state: dict[str, Any] = scope.setdefault("state", {})
        state["set_cookie"] = cookies.append
        state["root_path"] = ""
        try:
            known = await self._admit(scope, receive, cookies.append)
        except Refusal as refusal:
            await self._refused(refusal, scope, receive, with_headers)
            return
        state["known"] = known
        await self._app(scope, receive, with_headers)

    async def _admit(
        self, scope: Scope, receive: Receive, set_cookie: Callable[[bytes], None]
    ) -> Known | None:
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name == b"host" and name in headers:
                raise Refusal(400, "this request has two Host headers")
            headers[name] = value
        host = headers.get(b"host", b"").decode("latin-1")
        proxy = self._proxy if self._proxy is not None and _address(scope) == self._proxy.address else None
        if host_of(host) not in self._hosts and (proxy is None or host_of(host) != proxy.host):
            raise Refusal(421, "this page goes by another name: use the link that `netctl ui` printed")
        if proxy is not None and host_of(host) == proxy.host:
            scope["state"]["root_path"] = proxy.root_path
        safe = scope["method"] in SAFE
        if safe and scope["path"].startswith(FREE):
            return None
        try:
            user = proxy.user(scope["headers"]) if proxy is not None else None
        except ProxyRefusedError as refused:
            raise Refusal(401, str(refused)) from None
        said = headers[b"origin"].decode("latin-1") if b"origin" in headers else None
        own = said == proxy.origin if proxy is not None and user is not None else same_origin(said, host)
        if not safe and not own:
            raise Refusal(403, "a change must come from this page itself, and this one does not")
        cookie = _cookie(headers.get(b"cookie", b"").decode("latin-1"))
        if proxy is not None and user is not None:
            session, cookie = self._session_of(user, proxy, cookie, set_cookie)
        else:
            session, cookie = self._session(scope, cookie, set_cookie)
        if safe:
            return Known(session, cookie, {})
        if not session.operator and scope["path"] != "/logout":
            raise Refusal(403, "who may look may not change anything: ask an operator")
        limit = MAX_DOCUMENT_FORM if scope["path"].startswith("/document/") else MAX_FORM
        form = _fields(await read_body(receive, limit))
        if not carries(session, form.pop("csrf", "")):
            raise Refusal(403, "this form is too old: load the page again, and do it once more")
        return Known(session, cookie, form)

    def _session(
        self, scope: Scope, cookie: str | None, set_cookie: Callable[[bytes], None]
    ) -> tuple[Session, str]:
        now = time.monotonic()
        session = self.sessions.find(cookie, now)
        known = self._caller_at(_address(scope))
        if session is not None and cookie is not None and session.user is None:
            if session.member is None:
                return session, cookie
            if known is not None and session.member == known.member:  # what it may is what it may now
                return Session(session.csrf, known.operator, session.until, known.member), cookie
        if known is None:
            raise Refusal(401, "open the link that `netctl ui` printed; each is good once")
        cookie, session = self.begin(set_cookie, operator=known.operator, member=known.member)
        return session, cookie

    def _session_of(
        self, user: str, proxy: ProxyLogin, cookie: str | None, set_cookie: Callable[[bytes], None]
    ) -> tuple[Session, str]:
        session = self.sessions.find(cookie, time.monotonic())
        if session is not None and cookie is not None and session.user == user:
            return session, cookie
        cookie, session = self.begin(
            set_cookie,
            operator=user in proxy.operators,
            user=user,
            secure=proxy.secure,
            root_path=proxy.root_path,
        )
        return session, cookie

    def begin(
        self,
        set_cookie: Callable[[bytes], None],
        *,
        operator: bool,
        member: str | None = None,
        user: str | None = None,
        secure: bool = False,
        root_path: str = "",
    ) -> tuple[str, Session]:
        """A session for a browser that has shown who it is, and its cookie."""
        cookie = secrets.token_urlsafe(32)
        session = self.sessions.begin(
            cookie, secrets.token_urlsafe(32), time.monotonic(), operator=operator, member=member, user=user
        )
        only = "; Secure" if secure else ""
        set_cookie(f"{COOKIE}={cookie}; Path={root_path}/; HttpOnly; SameSite=Strict{only}".encode())
        return cookie, session

    def still(self, known: Known, address: str) -> bool:
        """Whether somebody who has been let in would be now, as what it was let in."""
        session = self.sessions.find(known.cookie, time.monotonic())
        if session is None:
            return False
        caller = self._caller_at(address_of(address))
        if session.member is None:
            return True
        now = (caller.member, caller.operator) if caller is not None else None
        return now == (known.session.member, known.session.operator)


def _address(scope: Scope) -> str:
    return address_of(scope["client"][0]) if scope.get("client") else ""


def _cookie(header: str) -> str | None:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return found.value if found is not None else None


async def read_body(receive: Receive, limit: int, within_s: float = BODY_S) -> bytes:
    """A form, of at most `limit` bytes. Raises Refusal for one that is larger, slower or broken off."""
    parts, length = [], 0
    try:
        async with asyncio.timeout(within_s):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refusal(400, "the form broke off")
                parts.append(message.get("body", b""))
                length += len(parts[-1])
                if length > limit:
                    raise Refusal(413, "this form is larger than any of this page")
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise Refusal(408, "the form took too long") from None


def _fields(body: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError:
        raise Refusal(400, "this is no form of this page") from None
    return dict(pairs)
