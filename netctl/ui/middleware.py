"""ASGI middleware before every page: who sends this request, and whether they may do that. No page avoids it.

What each check prevents:

* the Host header: that a name of somebody else's leads here (DNS rebinding);
* the Origin of a change and its token: that another site changes something (CSRF);
* Fetch Metadata (W3C): that another site loads anything of the page, even without seeing it;
* `SameSite=Strict`, `HttpOnly`: that a cookie is sent for another site, or read by a script;
* the path of the cookie: that it is sent to another port of the same host. Browsers do not keep cookies of different
  ports apart, and any user of the machine may listen on another port. Whoever comes by a link is therefore served
  below a path with 128 random bits, to which alone the browser sends the cookie;
* the Content Security Policy: that a script which somebody got into a page runs;
* the bounds: that somebody sends without end.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
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
"""Methods that change nothing (RFC 9110 §9.2.1)."""
LINK = "open the link that `netctl ui` printed; each is good once"
"""What a request without a session is told."""
MAX_FORM = 64 * 1024
"""Bytes. Our forms have a few short fields, and all of one is read before the token in it can be checked."""
MAX_DOCUMENT = 512 * 1024
"""Bytes of a document that is edited in the page: some 4,000 members. A larger one is edited in an editor."""
MAX_DOCUMENT_FORM = 3 * MAX_DOCUMENT + MAX_FORM
"""An operator's: each byte may be sent as three (percent-encoding)."""
BODY_S = 30.0
"""For a form to arrive whole."""
MAX_FIELDS = 64
"""Fields of a form."""
FREE = ("/static/", "/login")
"""What is served to whoever reaches the port: nothing of it says anything about this host."""
HERE = frozenset({b"same-origin", b"none"})
"""Sec-Fetch-Site of a request that no other site has caused: from this page, or by the person at the browser."""
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
"""Headers of every answer, beside the Content Security Policy."""
STORED = (b"cache-control", b"no-store")
"""Header of every answer that is not a static file: no browser keeps it."""


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
        """`refused`: the page that says why not; `caller_at`: the member at an overlay address; `hosts`: our
        names."""
        self._app = app
        self._refused = refused
        self._caller_at = caller_at
        self._hosts = LOOPBACK_HOSTS | {name.lower() for name in hosts}
        self._proxy = proxy
        self._linked = f"/{secrets.token_urlsafe(16)}"
        """Below this path is served whoever came by a link."""
        self.sessions = Sessions()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        cookies: list[bytes] = []

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                place = (
                    f"{self._proxy.origin}{state['public']}/" if self._proxy and state["public"] else "'self'"
                )
                policy = (b"content-security-policy", POLICY.format(place).encode())
                more = [policy, *HEADERS, *((b"set-cookie", one) for one in cookies)]
                stored = () if scope["path"].startswith("/static/") else (STORED,)
                message = {**message, "headers": [*message["headers"], *more, *stored]}
            await send(message)

        state: dict[str, Any] = scope.setdefault("state", {})
        state["set_cookie"] = cookies.append
        state["public"] = ""
        linked = scope["path"].startswith(f"{self._linked}/")
        if linked:
            scope = {**scope, "path": scope["path"].removeprefix(self._linked)}
        state["root_path"] = self._linked if linked else ""
        try:
            known = await self._admit(scope, receive, cookies.append, linked=linked)
        except Refusal as refusal:
            await self._refused(refusal, scope, receive, with_headers)
            return
        state["known"] = known
        await self._app(scope, receive, with_headers)

    async def _admit(
        self, scope: Scope, receive: Receive, set_cookie: Callable[[bytes], None], *, linked: bool
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
            scope["state"]["public"] = proxy.root_path
            scope["state"]["root_path"] = proxy.root_path + scope["state"]["root_path"]
        safe = scope["method"] in SAFE
        if headers.get(b"sec-fetch-site", b"none") not in HERE:
            kind = headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest")
            if not safe or kind != (b"navigate", b"document"):
                raise Refusal(403, "another site may lead to this page by a link, and may load nothing of it")
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
        cookies = _cookies(headers.get(b"cookie", b"").decode("latin-1"))
        if linked:
            session, cookie = self._session_by_link(cookies)
        elif proxy is not None and user is not None:
            session, cookie = self._session_of(user, proxy, cookies, set_cookie)
        else:
            session, cookie = self._session_at(_address(scope), cookies, set_cookie)
        if safe:
            return Known(session, cookie, {})
        if not session.operator and scope["path"] != "/logout":
            raise Refusal(403, "who may look may not change anything: ask an operator")
        limit = MAX_DOCUMENT_FORM if scope["path"].startswith("/document/") else MAX_FORM
        form = _fields(await read_body(receive, limit))
        if not carries(session, form.pop("csrf", "")):
            raise Refusal(403, "this form is too old: load the page again, and do it once more")
        return Known(session, cookie, form)

    def _find(self, cookies: list[str], fits: Callable[[Session], bool]) -> tuple[Session, str] | None:
        now = time.monotonic()
        found = ((self.sessions.find(cookie, now), cookie) for cookie in cookies)
        return next(((session, cookie) for session, cookie in found if session and fits(session)), None)

    def _session_by_link(self, cookies: list[str]) -> tuple[Session, str]:
        found = self._find(cookies, lambda one: one.who is None)
        if found is None:
            raise Refusal(401, LINK)
        return found

    def _session_at(
        self, address: str, cookies: list[str], set_cookie: Callable[[bytes], None]
    ) -> tuple[Session, str]:
        known = self._caller_at(address)
        if known is None:
            raise Refusal(401, LINK)
        found = self._find(cookies, lambda one: one.member == known.member)
        if found is not None:
            session, cookie = found  # what it may do is what it may do now
            return Session(session.csrf, known.operator, session.until, known.member), cookie
        cookie, session = self.begin(set_cookie, operator=known.operator, member=known.member)
        return session, cookie

    def _session_of(
        self, user: str, proxy: ProxyLogin, cookies: list[str], set_cookie: Callable[[bytes], None]
    ) -> tuple[Session, str]:
        found = self._find(cookies, lambda one: one.user == user)
        if found is not None:
            return found
        cookie, session = self.begin(
            set_cookie,
            operator=user in proxy.operators,
            user=user,
            secure=proxy.secure,
            root_path=proxy.root_path,
        )
        return session, cookie

    def sign_in(self, scope: Scope, *, operator: bool) -> None:
        """Begin a session for a browser that has shown a link, and have its pages lead to the path of links."""
        state = scope["state"]
        state["root_path"] = state["public"] + self._linked
        self.begin(state["set_cookie"], operator=operator, root_path=state["root_path"])

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


def _cookies(header: str) -> list[str]:
    """All values of our cookie (RFC 6265 §4.2): another port of this host may have set one of the same name."""
    pairs = (part.strip().partition("=") for part in header.split(";"))
    return [value for name, _, value in pairs if name == COOKIE and value]


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
