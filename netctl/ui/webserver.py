"""The server of the page: a process of its own, which gives up its rights before it serves.

It is started with its sockets open and loads everything that it needs. Then it becomes the user `nobody` in an empty
directory that is deleted, and can open no file any more. All that it can do is ask its broker (`netctl.ui.broker`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import pwd
import resource
import socket
import sys
import tempfile
import traceback
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import uvicorn
from starlette.responses import StreamingResponse

from netctl.config import load_document
from netctl.model.errors import ConfigError
from netctl.system import logs
from netctl.system.guard import Guard
from netctl.system.tasks import Tasks, watch_loop
from netctl.ui.brokerclient import BrokerClient
from netctl.ui.connections import BoundedProtocol
from netctl.ui.middleware import App, Message, Receive, Scope, Send
from netctl.ui.proxylogin import ProxyLogin
from netctl.ui.webapp import Pages

NOBODY = "nobody"
"""The user that the server becomes."""
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38
MAX_FILES = 1024
"""Open files: connections, and what the event loop needs."""
MAX_CONNECTIONS = 512
"""Enough for loopback, a proxy and ten addresses with all the connections that each may have (`connections`)."""
KEEP_ALIVE_S = 15
"""Seconds that a connection may rest between two requests."""
GOODBYE_S = 1
"""Seconds that open answers have to end when the server ends."""
PAUSE_S = 0.01
"""Seconds after which the pretended browser of the warm-up leaves: it has its answer by then."""
UNFIT = "apiVersion: netctl/v0\nmembers: {Ä: {wireguard: 1}}\nnetworks: {}\n"
"""A document with errors of several kinds: to explain them, Python loads all that an explanation needs."""


class Setup(msgspec.Struct, frozen=True):
    """What the starting process hands over: file descriptors of the broker's connection and of the listening
    sockets, and
    the names of this host."""

    broker: int
    listeners: list[int]
    hosts: list[str]
    proxy: ProxyLogin | None = None


def become_nobody() -> None:
    """Give up all rights and all files for good; a process that is not root has no rights to give up. Raises
    OSError."""
    if os.geteuid() == 0:
        user = pwd.getpwnam(NOBODY)
        with contextlib.suppress(PermissionError):  # root in a container may lack CAP_SYS_CHROOT
            _leave_files()
        os.setgroups([])
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((PR_SET_DUMPABLE, 0), (PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0) < 0:
            raise OSError(ctypes.get_errno(), "prctl")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _leave_files() -> None:
    """chroot(2) into a new directory, and delete it."""
    path = tempfile.mkdtemp(prefix="netctl-ui-")
    above = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.chroot(path)
        os.chdir("/")
    finally:
        os.rmdir(os.path.basename(path), dir_fd=above)
        os.close(above)


async def warm_up(app: App) -> None:
    """Use what Python loads from files at its first use, because later this process cannot open files."""

    async def receive() -> Message:
        await asyncio.sleep(PAUSE_S)
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None:
        return

    async def nothing() -> AsyncIterator[str]:
        yield ""

    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    scope |= {"client": None, "server": None, "scheme": "http", "http_version": "1.1", "root_path": ""}
    await app(dict(scope), receive, send)  # which is refused, with a page
    await StreamingResponse(nothing())(scope, receive, send)
    with contextlib.suppress(ConfigError):
        await asyncio.to_thread(load_document, UNFIT)
    "localhost".encode("idna")
    traceback.format_exception(ValueError("nothing"))
    os.strerror(0)


async def serve(setup: Setup) -> None:
    """Serve until the broker ends or a signal comes."""
    guard = Guard(logging.getLogger(__name__).warning)
    watch_loop(asyncio.get_running_loop(), guard)
    broker = BrokerClient(socket.socket(fileno=setup.broker))
    await broker.connect()
    pages = Pages(broker, tuple(setup.hosts), setup.proxy)

    class Protocol(BoundedProtocol):
        shared = frozenset({setup.proxy.address} if setup.proxy is not None else ())

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await pages.access(scope, receive, send)
        except Exception as error:
            guard.caught("a request", error)

    config = uvicorn.Config(
        guarded,
        loop="asyncio",
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,  # the client is who connects; `netctl.ui.proxylogin` reads what a proxy says
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GOODBYE_S,
    )
    config.load()
    # It would log a line for each malformed request, without a bound. The guard logs failures of our own code.
    logging.getLogger("uvicorn.error").disabled = True
    await warm_up(pages.access)
    become_nobody()
    server = uvicorn.Server(config)
    tasks = Tasks(guard)

    async def until_gone() -> None:
        try:
            await broker.run()
        finally:  # in every case: a server without its broker can do nothing
            server.should_exit = True

    tasks.start("the broker", until_gone())
    tasks.keep("the live data", pages.feed.run)
    try:
        await server.serve([socket.socket(fileno=number) for number in setup.listeners])
    finally:
        await tasks.end()


def main() -> None:
    """Run the server. Only `netctl.ui.launch` starts it."""
    logs.start(logging.INFO, prefix="page: ")
    asyncio.run(serve(msgspec.json.decode(sys.argv[1], type=Setup)))


if __name__ == "__main__":
    main()
