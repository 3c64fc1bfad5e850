"""TCP to the mediator, directly or through an HTTP proxy with CONNECT (RFC 9110 §9.3.6).

HTTPS_PROXY or https_proxy names the proxy, NO_PROXY the hosts without one, as for other programs.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from netctl.agent.mediators.nat64discovery import beyond
from netctl.model.addresses import Address, SocketAddress
from netctl.model.errors import LocalError, RemoteError
from netctl.system.dial import away_from, race, resolve
from netctl.wire import http

DEFAULT_PORT = 3128
"""Squid's port, used if the URL has none."""
LOOK_UP_S = 2.0
"""Timeout for the host's addresses behind a proxy: useful but not required, and DNS often does not answer there."""
AUTHENTICATION_REQUIRED = 407
SEGMENT_SIZE = 1220
"""Segment size of TCP to a mediator in both directions, in bytes (RFC 9293 §3.7.1, MSS): packets have at most 1,280
bytes, which every path for IPv6 carries (RFC 8200 §5). On a path that silently drops larger packets, a connection with
larger segments would hang for ever: Linux does not search for a smaller size by default (tcp_mtu_probing).
"""


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy."""

    host: str
    port: int
    user: str | None = None
    password: str = ""

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """A proxy from ``http://user:password@host:port`` or ``host:port``. Raises LocalError."""
        url = urlsplit(text if "://" in text else f"http://{text}")
        advice = "HTTPS_PROXY is http://HOST:PORT, with USER:PASSWORD@ before HOST where the proxy wants it"
        try:
            port = url.port or DEFAULT_PORT
        except ValueError:
            raise LocalError(f"the port of the proxy is no number: {advice}") from None
        if url.scheme != "http":
            raise LocalError(f"a proxy of the kind '{url.scheme}' is not spoken: {advice}")
        if not url.hostname:
            raise LocalError(f"the proxy has no host: {advice}")
        user = unquote(url.username) if url.username is not None else None
        return cls(url.hostname, port, user, unquote(url.password or ""))

    def request(self, host: str, port: int) -> bytes:
        """The CONNECT request for a host."""
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if self.user is None:
            return http.connect_request(where)
        secret = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return http.connect_request(where, (("Proxy-Authorization", f"Basic {secret}"),))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def proxy_for(host: str) -> Proxy | None:
    """The proxy that the environment names for a host; None: no proxy. Raises LocalError."""
    if not any(name.lower() == "https_proxy" for name in os.environ):
        return None
    # A megabyte with all that it imports.
    from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

    found = getproxies_environment().get("https")
    if not found or proxy_bypass_environment(host):
        return None
    return Proxy.parse(found)


def judge(answer: bytes, proxy: Proxy, where: str) -> None:
    """Check the proxy's answer, up to its empty line. Raises RemoteError unless it is a success."""
    try:
        head = http.connect_head(answer)
    except RemoteError:
        raise RemoteError(f"{proxy} is no HTTP proxy: it answers in another way", "proxy") from None
    if not 200 <= head.status < 300:
        said = f"{head.status} {head.reason}".rstrip()
        hint = ": put USER:PASSWORD@ into HTTPS_PROXY" if head.status == AUTHENTICATION_REQUIRED else ""
        raise RemoteError(f"the proxy {proxy} does not connect to {where}: {said}{hint}", "proxy")


@dataclass(frozen=True, slots=True)
class Connected:
    """A TCP connection to a host, directly or through a proxy."""

    socket: socket.socket
    reached: tuple[SocketAddress, ...]
    """The host's addresses, the connected one first; behind a proxy empty if DNS does not answer."""


async def connect(host: str, port: int, *, avoid: Address | None = None) -> Connected:
    """Connect by TCP to a host, by the address family that answers first.

    `avoid`: an address whose earlier connection failed; its family comes second. Raises OSError, RemoteError (the
    proxy refuses), LocalError (the proxy's address is wrong).
    """
    proxy = proxy_for(host)
    if proxy is None:
        ways = await beyond(away_from(avoid, await resolve(host, port)))
        addresses = tuple(ways.values())
        opened = await race(tuple(ways), SEGMENT_SIZE)
        there = SocketAddress.of(*opened.getpeername()[:2])
        to = ways.get(there, there)
        return Connected(opened, (to, *(one for one in addresses if one != to)))
    known: tuple[SocketAddress, ...] = ()
    with contextlib.suppress(OSError):  # TimeoutError is one
        async with asyncio.timeout(LOOK_UP_S):
            known = await resolve(host, port)
    opened = await race(tuple(await beyond(await resolve(proxy.host, proxy.port))), SEGMENT_SIZE)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(opened, proxy.request(host, port))
        answer = b""
        while not answer.endswith(http.END_OF_HEAD):  # byte by byte: bytes after the head belong to TLS
            if len(answer) > http.MAX_HEAD:
                raise RemoteError(f"{proxy} is no HTTP proxy: its answer has no end", "proxy")
            more = await loop.sock_recv(opened, 1)
            if not more:
                raise RemoteError(f"the proxy {proxy} hangs up", "proxy")
            answer += more
        judge(answer, proxy, f"{host}:{port}")
    except BaseException:
        opened.close()
        raise
    return Connected(opened, known)
