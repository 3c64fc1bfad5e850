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

DEFAULT_PORT = 3128
"""Squid's, where the URL says none."""
MAX_ANSWER = 8192
"""Bytes of a proxy's answer, up to its empty line."""


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
        lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
        if self.user is not None:
            secret = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            lines.append(f"Proxy-Authorization: Basic {secret}")
        return "\r\n".join((*lines, "", "")).encode()

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
    words = answer.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        raise RemoteError(f"{proxy} is no HTTP proxy: it answers in another way", "proxy")
    if not words[1].startswith("2"):
        said = " ".join(words[1:])
        hint = ": put USER:PASSWORD@ into HTTPS_PROXY" if words[1] == "407" else ""
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
        while not answer.endswith(b"\r\n\r\n"):  # byte by byte: what follows belongs to TLS
            if len(answer) > MAX_ANSWER:
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
