"""TCP to the mediator, straight or through an HTTP proxy with CONNECT (RFC 9110 §9.3.6).

The proxy is what HTTPS_PROXY or https_proxy says, for hosts that NO_PROXY does not name: as for every other program.
"""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

from netctl.model.errors import LocalError, RemoteError
from netctl.wire import http

DEFAULT_PORT = 3128
"""Squid's, where the URL says none."""
AUTHENTICATION_REQUIRED = 407


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy."""

    host: str
    port: int
    user: str | None = None
    password: str = ""

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """From ``http://user:password@host:port`` or ``host:port``. Raises LocalError."""
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
        """Ask for a connection."""
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if self.user is None:
            return http.connect_request(where)
        secret = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return http.connect_request(where, (("Proxy-Authorization", f"Basic {secret}"),))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def proxy_for(host: str) -> Proxy | None:
    """What the environment says for this host. Raises LocalError."""
    found = getproxies_environment().get("https")
    if not found or proxy_bypass_environment(host):
        return None
    return Proxy.parse(found)


def judge(answer: bytes, proxy: Proxy, where: str) -> None:
    """The proxy's answer, up to its empty line. Raises RemoteError unless it is a success."""
    try:
        head = http.connect_head(answer)
    except RemoteError:
        raise RemoteError(f"{proxy} is no HTTP proxy: it answers in another way", "proxy") from None
    if not 200 <= head.status < 300:
        said = f"{head.status} {head.reason}".rstrip()
        hint = ": put USER:PASSWORD@ into HTTPS_PROXY" if head.status == AUTHENTICATION_REQUIRED else ""
        raise RemoteError(f"the proxy {proxy} does not connect to {where}: {said}{hint}", "proxy")


async def connect(host: str, port: int) -> socket.socket:
    """A TCP connection to a host. Raises OSError, RemoteError (the proxy's no), LocalError (its address is wrong)."""
    proxy = proxy_for(host)
    if proxy is None:
        return await _straight(host, port)
    opened = await _straight(proxy.host, proxy.port)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(opened, proxy.request(host, port))
        answer = b""
        while not answer.endswith(http.END_OF_HEAD):  # byte by byte: what follows belongs to TLS
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
    return opened


async def _straight(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    found: Sequence[tuple[int, int, int, str, tuple[object, ...]]]
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    last: OSError = OSError("no address")
    for family, kind, proto, _, address in found:
        opened = socket.socket(family, kind | socket.SOCK_NONBLOCK, proto)
        try:
            await loop.sock_connect(opened, address)
        except OSError as error:
            opened.close()
            last = error
            continue
        except BaseException:
            opened.close()
            raise
        return opened
    raise last
