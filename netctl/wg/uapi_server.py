"""The server of the UAPI socket `/var/run/wireguard/IFACE.sock`, a stream socket for `wg`.

All work is non-blocking and in small steps, since packets wait while a client is served. The clients have an epoll of
their own, which the shell sees as one readable descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from netctl.model.errors import LocalError
from netctl.wg.configure import Configurable, answer_changed, answer_get, apply
from netctl.wg.peerchanges import Changes
from netctl.wg.uapi import (
    GET,
    GET_CHANGED,
    GET_DATA_PATH,
    MAX_LINE_LEN,
    SET,
    SINCE,
    SetParser,
    UapiError,
    format_data_path,
    format_status,
)

SOCKET_DIR = Path("/var/run/wireguard")
"""The directory in which `wg` looks for sockets."""
MAX_CLIENTS = 16
"""Connections at the same time; one more closes the connection that was silent for longest."""
CHUNK = 1 << 16
"""Bytes read from or written for one client in one turn: about 2 ms of parsing."""
BACKLOG = 16


class Loop(Configurable, Protocol):
    """The methods of the shell that the server needs."""

    def register(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back while `fd` is readable."""

    def unregister(self, fd: int) -> None:
        """Stop calling back for `fd`."""


def socket_path(interface: str) -> Path:
    """The path of an interface's UAPI socket."""
    return SOCKET_DIR / f"{interface}.sock"


def bind_unix(path: Path, kind: socket.SocketKind) -> socket.socket:
    """A non-blocking Unix socket at `path`, for its owner only from the first moment.

    The socket of a dead process is replaced. Raises LocalError when a live process serves it, OSError otherwise.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if path.is_socket():
        with socket.socket(socket.AF_UNIX, kind) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError as error:
                if error.errno != errno.ENOENT:  # EAGAIN: alive, with a full backlog
                    raise LocalError(f"{path} is in use: {error.strerror}") from error
            else:
                raise LocalError(f"{path} is served by another process: end that one first")
    opened = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    umask = os.umask(0o177)
    try:
        opened.bind(str(path))
    except BaseException:
        opened.close()
        raise
    finally:
        os.umask(umask)
    return opened


class _Client:
    """One connection: the incomplete line, the incomplete request, and the unwritten rest of the answer."""

    def __init__(
        self,
        connection: socket.socket,
        shell: Configurable,
        changes: Changes,
        log: Callable[[str], None],
    ) -> None:
        self.connection = connection
        self.last_active = shell.now()
        self.is_writing = False
        self._shell = shell
        self._changes = changes
        self._log = log
        self._input = bytearray()
        self._parser: SetParser | None = None
        self._is_get = False
        self._is_get_path = False
        self._since: str | None = None
        """The cursor of a `get=changed` under way; empty: none yet."""
        self._answers: Iterator[str] = iter(())
        self._output = memoryview(b"")
        self._is_ending = False

    def step(self) -> bool:
        """Do a bounded amount of work. False: the connection has ended."""
        self.last_active = self._shell.now()
        try:
            if self.is_writing:
                return self._write()
            return self._read() and self._write()
        except OSError as error:
            return error.errno == errno.EAGAIN

    def _read(self) -> bool:
        data = self.connection.recv(CHUNK)
        if not data:
            if not self._is_idle():
                self._end(-errno.EPROTO)  # the request was cut off: no part of it is applied
                return True
            return False
        self._input += data
        self._take_lines()
        return True

    def _is_idle(self) -> bool:
        under_way = self._is_get or self._is_get_path or self._since is not None
        return not self._input and self._parser is None and not under_way

    def _take_lines(self) -> None:
        """Take lines up to the first whole request: the next request must wait for the answer to this one."""
        start = 0
        while not self.is_writing and (end := self._input.find(b"\n", start)) >= 0:
            line = self._input[start:end]
            start = end + 1
            self._take_line(line)
        del self._input[:start]
        if not self.is_writing and len(self._input) > MAX_LINE_LEN:
            self._end(-errno.EPROTO)

    def _take_line(self, raw: bytearray) -> None:
        if len(raw) > MAX_LINE_LEN or not raw.isascii():
            self._end(-errno.EPROTO)
            return
        line = raw.decode("ascii")
        if self._parser is not None:
            if line:
                self._parser.feed(line)
            else:
                self._finish_set(self._parser)
        elif self._is_get:
            self._is_get = False
            if line:
                self._end(-errno.EPROTO)
            else:
                self._answer(answer_get(self._shell))
        elif self._is_get_path:
            self._is_get_path = False
            if line:
                self._end(-errno.EPROTO)
            else:
                self._answer(
                    iter((format_data_path(self._shell.data_path, self._shell.faults), format_status(0)))
                )
        elif self._since is not None:
            name, _, value = line.partition("=")
            if not line:
                cursor, self._since = self._since, None
                self._answer(answer_changed(self._shell, self._changes, cursor))
            elif name == SINCE and not self._since:
                self._since = value
            else:
                self._end(-errno.EPROTO)
        elif line == SET:
            self._parser = SetParser()
        elif line == GET:
            self._is_get = True
        elif line == GET_CHANGED:
            self._since = ""
        elif line == GET_DATA_PATH:
            self._is_get_path = True
        else:
            self._end(-errno.EPROTO)

    def _finish_set(self, parser: SetParser) -> None:
        self._parser = None
        code = 0
        try:
            apply(self._shell, parser.finish())
        except UapiError as error:
            self._log(f"UAPI: {error}")
            code = error.code
        self._answer(iter((format_status(code),)))

    def _answer(self, answers: Iterator[str]) -> None:
        self._answers, self.is_writing = answers, True

    def _end(self, code: int) -> None:
        """Answer with `code` and close: the start of the next request is unknown."""
        self._input.clear()
        self._parser, self._is_ending = None, True
        self._is_get, self._is_get_path, self._since = False, False, None
        self._answer(iter((format_status(code),)))

    def _write(self) -> bool:
        if not self.is_writing:
            return True
        if not self._output:
            self._output = memoryview(self._next_chunk())
        if self._output:
            self._output = self._output[self.connection.send(self._output) :]
            return True
        self.is_writing = False
        if self._is_ending:
            return False
        self._take_lines()
        return True

    def _next_chunk(self) -> bytes:
        pieces, size = [], 0
        for piece in self._answers:
            pieces.append(piece)
            size += len(piece)
            if size >= CHUNK:
                break
        return "".join(pieces).encode("ascii")


class UapiServer:
    """Serves configuration on a Unix stream socket. `log` writes one line for every refused request."""

    def __init__(self, shell: Loop, path: Path, log: Callable[[str], None] = lambda _: None) -> None:
        self._shell = shell
        self._changes = Changes(os.urandom)
        self._path = path
        self._log = log
        self._listener: socket.socket | None = None
        self._poll: select.epoll | None = None
        self._clients: dict[int, _Client] = {}

    def start(self) -> None:
        """Bind and serve. Raises LocalError when another process serves the socket, OSError otherwise."""
        self._listener = bind_unix(self._path, socket.SOCK_STREAM)
        self._listener.listen(BACKLOG)
        self._poll = select.epoll()
        self._poll.register(self._listener.fileno(), select.EPOLLIN)
        self._shell.register(self._poll.fileno(), self._turn)

    def close(self) -> None:
        """Remove the socket file and close everything; idempotent.

        The file goes while the socket still listens, because until then no other process takes its place.
        """
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
        for fd in tuple(self._clients):
            self._drop(fd)
        if self._poll is not None:
            self._shell.unregister(self._poll.fileno())
            self._poll.close()
            self._poll = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    @property
    def clients(self) -> int:
        """Open connections."""
        return len(self._clients)

    def _turn(self) -> None:
        assert self._poll is not None
        assert self._listener is not None
        for fd, _ in self._poll.poll(0, MAX_CLIENTS + 1):
            if fd == self._listener.fileno():
                self._accept()
            elif fd in self._clients:
                self._serve(fd)

    def _accept(self) -> None:
        assert self._poll is not None
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # the client is gone, or no descriptors are left: it waits in the backlog
        connection.setblocking(False)
        if len(self._clients) >= MAX_CLIENTS:
            self._drop(min(self._clients, key=lambda fd: self._clients[fd].last_active))
        self._clients[connection.fileno()] = _Client(connection, self._shell, self._changes, self._log)
        self._poll.register(connection.fileno(), select.EPOLLIN)

    def _serve(self, fd: int) -> None:
        assert self._poll is not None
        client = self._clients[fd]
        try:
            goes_on = client.step()
        except Exception as error:  # must not end the tunnels, nor leave the descriptor readable for ever
            self._log(
                f"UAPI: a connection is dropped, for serving it failed ({type(error).__name__}: {error})"
            )
            goes_on = False
        if not goes_on:
            self._drop(fd)
            return
        self._poll.modify(fd, select.EPOLLOUT if client.is_writing else select.EPOLLIN)

    def _drop(self, fd: int) -> None:
        client = self._clients.pop(fd)
        if self._poll is not None:
            self._poll.unregister(fd)
        client.connection.close()
