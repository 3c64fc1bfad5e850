"""Starts the page: opens its sockets, starts its server, and runs the broker of that server."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import secrets
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec
from msgspec.structs import replace

from netctl.agent.storage.locations import Locations
from netctl.model.addresses import Address
from netctl.model.errors import LocalError
from netctl.model.hoststate import DOMAIN
from netctl.system.lineclient import Server, ask
from netctl.system.ourselves import environment, module
from netctl.ui.broker import Broker, Rights
from netctl.ui.editing import AGENT_MISSING, TIMEOUT_S
from netctl.ui.proxylogin import ProxyLogin
from netctl.wire.agentrequests import Status

LOOPBACK = ("127.0.0.1", "::1")
NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Errors of bind(2) and socket(2) on a host without ::1."""
TRIES = 8
"""How many ports of the kernel's choice (port 0) are tried: one may be free on 127.0.0.1 and taken on ::1."""
BACKLOG = 128
GOODBYE_S = 5.0
"""Seconds that the server has to end by itself, before it is killed."""


@dataclass(frozen=True, slots=True)
class Wish:
    """The options of a page.

    `listen`: this host's overlay address on which to listen too, besides loopback; None: loopback alone. `viewer`:
    nobody can change anything. `proxy`: the trusted reverse proxy, if there is one.
    """

    locations: Locations
    mediator_socket: Path
    port: int
    listen: Address | None
    viewer: bool
    proxy: ProxyLogin | None = None


class Page:
    """A running page."""

    def __init__(self, wish: Wish) -> None:
        self._port = wish.port
        with contextlib.ExitStack() as opened:
            hosts = _names(wish) if wish.listen is not None else []
            listeners = [opened.enter_context(one) for one in _listeners(wish)]
            self._port = int(listeners[0].getsockname()[1])
            ours, theirs = socket.socketpair()
            opened.enter_context(theirs)
            numbers = [one.fileno() for one in listeners]
            proxy = (
                replace(wish.proxy, operators=()) if wish.proxy is not None and wish.viewer else wish.proxy
            )
            setup = {"broker": theirs.fileno(), "listeners": numbers, "hosts": hosts, "proxy": proxy}
            self._server = subprocess.Popen(
                module("netctl.ui.webserver", msgspec.json.encode(setup).decode()),
                pass_fds=[theirs.fileno(), *numbers],
                stdin=subprocess.DEVNULL,
                env=environment(),
                cwd="/",
            )
        self._connection = ours
        self._broker = Broker(ours, Rights(wish.locations, wish.mediator_socket, operators=not wish.viewer))
        self._thread = threading.Thread(target=self._broker.serve, name="broker", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def link(self) -> str:
        """Make a link, which is good once and for `logintokens.TOKEN_S` seconds."""
        token = secrets.token_urlsafe(32)
        self._broker.issue(token)
        return f"http://127.0.0.1:{self._port}/login?token={token}"

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait until the server ends, and return its exit status; None: it still runs after so many seconds."""
        try:
            return self._server.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """End the server and the broker."""
        if self._server.poll() is None:
            self._server.send_signal(signal.SIGTERM)
            if self.wait(GOODBYE_S) is None:
                self._server.kill()
                self._server.wait()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(GOODBYE_S)
        self._connection.close()


def _names(wish: Wish) -> list[str]:
    """The address and the names of this host in the overlay. Raises LocalError if the address is not this
    host's."""
    status = ask(
        Server(wish.locations.socket, "agent", AGENT_MISSING), Status(look=False), timeout_s=TIMEOUT_S
    ).reply
    address = str(wish.listen)
    networks = [name for name, network in status.networks.items() if address in network.addresses]
    if not networks or status.member is None:
        own = ", ".join(text for network in status.networks.values() for text in network.addresses)
        raise LocalError(
            f"{address} is no address of this host in a network of the document; it has {own or 'none'}. "
            "The page is served over the overlay alone: WireGuard says there who is who"
        )
    return [address, *(f"{status.member}.{network}.{DOMAIN}" for network in networks)]


def _listeners(wish: Wish) -> Iterator[socket.socket]:
    with contextlib.ExitStack() as opened:
        loopback = _loopback(wish.port)
        for one in loopback:
            opened.callback(one.close)
        if wish.listen is not None:
            loopback.append(_listener(wish.listen, loopback[0].getsockname()[1]))
        opened.pop_all()
    yield from loopback


def _loopback(port: int) -> list[socket.socket]:
    """On both loopback addresses, at the same port.

    Raises LocalError where somebody else holds one of them: browsers take `localhost` for ::1 first, so whoever listens
    there would be taken for the page.
    """
    for left in reversed(range(TRIES if port == 0 else 1)):
        first = _listener(ipaddress.ip_address(LOOPBACK[0]), port)
        try:
            return [first, _listener(ipaddress.ip_address(LOOPBACK[1]), first.getsockname()[1])]
        except LocalError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in NO_IPV6:
                return [first]
            first.close()
            if not left:
                raise
    raise AssertionError


def _listener(address: Address, port: int) -> socket.socket:
    try:
        opened = socket.socket(
            socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM
        )
    except OSError as error:
        raise LocalError(f"cannot listen on {address}: {error.strerror}") from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.version == 6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind((str(address), port))
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        raise LocalError(
            f"cannot listen on {address} port {port}: {error.strerror}; --port names another"
        ) from error
    return opened
