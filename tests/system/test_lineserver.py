"""The local socket of JSON lines: one server and one client, and what neither lets through."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netctl.model.errors import ConfigError, Finding, LocalError
from netctl.system.lineclient import Answer, NobodyListensError, Server, ask
from netctl.system.lineserver import LineServer, Progress, Service
from netctl.wire import agentrequests as r
from netctl.wire.jsonline import Request
from tests.support.patience import BUSY_S

MAX_REQUEST = 4096
TIMEOUT_S = BUSY_S


async def perform(request: Request[Any], progress: Progress) -> Any:
    match request:
        case r.Down(network):
            thread = threading.Thread(target=lambda: deque(map(progress, ("step 0", "step 1", "step 2"))))
            thread.start()
            thread.join()
            return r.OutcomeReply(7, network)
        case r.Plan():
            raise ConfigError((Finding("NC101", "members", "is wrong"),))
        case r.Apply():
            raise LocalError("nothing is armed")
        case r.Leases():
            return object()
        case r.Confirm():
            return {"digest": 1}
    raise ValueError("\ud800")


def served(tmp_path: Path, use: Callable[[Server], Any]) -> Any:
    """What `use` comes to in a thread, while a server serves."""

    async def main() -> Any:
        path = tmp_path / "a.sock"
        server = LineServer(path, Service("agent", r.OPERATIONS, perform, MAX_REQUEST))
        await server.start()
        try:
            return await asyncio.to_thread(use, Server(path, "agent", "nobody is here"))
        finally:
            await server.close()
            assert not path.exists()

    return asyncio.run(main())


def say(server: Server, *parts: bytes) -> bytes:
    """All that comes back for these bytes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(server.path))
        for part in parts:
            connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while part := connection.recv(65536):
            found += part
        return found


def test_progress_comes_before_the_result_also_from_a_thread(tmp_path: Path) -> None:
    heard: list[str] = []
    answer: Answer[r.OutcomeReply] = served(
        tmp_path, lambda server: ask(server, r.Down("lan"), heard.append, timeout_s=TIMEOUT_S)
    )
    assert heard == ["step 0", "step 1", "step 2"]
    assert answer.reply == r.OutcomeReply(7, "lan")
    assert answer.plain == {"changed": 7, "error": "lan", "rolled_back": False}


@pytest.mark.parametrize(
    ("request_", "kind", "says"),
    [
        (r.Plan("", "f"), ConfigError, "NC101"),
        (r.Apply("", "f"), LocalError, "nothing is armed"),
        (r.Leases(), LocalError, "the agent itself failed (TypeError"),
        (r.Adopt(), LocalError, "the agent itself failed (ValueError"),
        (r.Confirm(), LocalError, "the agent broke off: Expected `str`, got `int`"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Request) else "",
)
def test_what_fails_is_said(tmp_path: Path, request_: Request[Any], kind: type[Exception], says: str) -> None:
    def use(server: Server) -> None:
        with pytest.raises(kind) as failed:
            ask(server, request_, timeout_s=TIMEOUT_S)
        assert says in str(failed.value)

    served(tmp_path, use)


def test_garbage_ends_its_connection_and_nothing_else(tmp_path: Path) -> None:
    def use(server: Server) -> None:
        assert say(server) == b""
        assert say(server, b"\n").startswith(b'{"error":')
        assert b"not a request" in say(server, b"GET / HTTP/1.1\r\n\r\n")
        assert say(server, b"x" * (MAX_REQUEST * 3)) == b"", "a line that does not end"
        assert b"not a request" in say(server, b'{"op"'), "a line that ends with the connection"
        assert say(server, b'{"op":"down"}\n{"op":"down"}\n').count(b'"result"') == 1
        assert b'"result"' in say(server, b'{"op":', b'"down"}\n')
        with socket.socket(socket.AF_UNIX) as gone:
            gone.connect(str(server.path))
            gone.sendall(b'{"op":"down"}\n')
        assert ask(server, r.Down(), timeout_s=TIMEOUT_S).reply.changed == 7

    served(tmp_path, use)


def test_the_socket_is_for_its_owner_alone(tmp_path: Path) -> None:
    def use(server: Server) -> None:
        assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o600

    served(tmp_path, use)


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(NobodyListensError, match="nobody is here"):
        ask(Server(tmp_path / "none.sock", "agent", "nobody is here"), r.Status(), timeout_s=1.0)


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (b"", "broke off without an answer"),
        (b"not JSON\n", "broke off"),
        (b"[]\n", "broke off"),
        (b"[" * 100_000 + b"\n", "broke off"),
        (b'{"result": {"digest": "x"\n', "broke off"),
        (b'{"result": "x"}\n', "broke off"),
        (b'{"error": {"kind": "new", "message": "x"}}\n', "broke off"),
        (b'{"progress": 1}\n', "broke off"),
        (b'{"something": "new"}\n', "broke off without an answer"),
        (b"\xff\n", "broke off"),
    ],
)
def test_a_server_that_says_what_is_no_answer(tmp_path: Path, said: bytes, says: str) -> None:
    path = tmp_path / "odd.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def speak() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(said)

        speaker = threading.Thread(target=speak)
        speaker.start()
        with pytest.raises(LocalError, match=says):
            ask(Server(path, "agent", "nobody is here"), r.Confirm(), timeout_s=TIMEOUT_S)
        speaker.join()
