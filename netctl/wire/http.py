"""HTTP/1.1 (RFC 9112) with h11, without I/O: for UPnP of routers, CONNECT through proxies, and `/metrics`.

One request a connection, one answer of bounded size, no redirects.
"""

from __future__ import annotations

from dataclasses import dataclass

import h11

from netctl.model.errors import RemoteError

MAX_RESPONSE = 65_536
"""Bytes of an answer with head and chunks: descriptions of real routers are 2 to 20 KB."""
MAX_HEAD = 8192
"""Bytes of a request's or an answer's head."""
END_OF_HEAD = b"\r\n\r\n"
Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Response:
    """A whole HTTP response."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer."""

    status: int
    reason: str


def request(method: str, host: str, path: str, body: bytes = b"", headers: Headers = ()) -> bytes:
    """The bytes of a request after which the connection ends."""
    fields = [("Host", host), ("Connection", "close"), ("User-Agent", "netctl UPnP/1.1"), *headers]
    if body:
        fields.append(("Content-Length", str(len(body))))
    return _sent(h11.Request(method=method, target=path, headers=fields), body)


def connect_request(where: str, headers: Headers = ()) -> bytes:
    """The bytes of a request to a proxy for a connection to HOST:PORT (RFC 9110 §9.3.6)."""
    return _sent(h11.Request(method="CONNECT", target=where, headers=[("Host", where), *headers]), b"")


def _sent(asked: h11.Request, body: bytes) -> bytes:
    connection = h11.Connection(h11.CLIENT)
    parts = [connection.send(asked), connection.send(h11.Data(body)) if body else b""]
    parts.append(connection.send(h11.EndOfMessage()))
    return b"".join(part for part in parts if part is not None)


def response(data: bytes, *, ended: bool) -> Response | None:
    """The answer in the bytes received so far; None: the answer is incomplete. `ended`: no more bytes will come.

    Raises RemoteError for bytes that are no HTTP answer, exceed MAX_RESPONSE, or end too early.
    """
    if len(data) > MAX_RESPONSE:
        raise RemoteError("too long an HTTP answer", "http.length")
    connection = _asking("GET")
    status, parts = 0, []
    try:
        connection.receive_data(data)
        if ended and data:
            connection.receive_data(b"")
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return Response(status, b"".join(parts))
            elif not isinstance(event, h11.InformationalResponse):
                break
    except h11.RemoteProtocolError as error:
        raise RemoteError(f"not an HTTP answer: {error}", "http.answer") from error
    if ended:
        raise RemoteError("an HTTP answer that is cut off", "http.short")
    return None


def connect_head(data: bytes) -> Head:
    """The head of a proxy's answer to CONNECT. `data` ends with `END_OF_HEAD`. Raises RemoteError for anything else."""
    connection = _asking("CONNECT")
    try:
        connection.receive_data(data)
        event = connection.next_event()
        while isinstance(event, h11.InformationalResponse):
            event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise RemoteError(f"not an HTTP answer: {error}", "http.answer") from error
    if not isinstance(event, h11.Response):
        raise RemoteError("an HTTP answer that is cut off", "http.short")
    return Head(event.status_code, bytes(event.reason).decode("latin-1"))


def _asking(method: str) -> h11.Connection:
    """A client's connection that has sent a request. The method decides how the answer ends."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    return connection


class Served:
    """The server's side of one connection: one request, whose body is ignored, and one answer."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)

    def receive(self, data: bytes) -> tuple[str, str] | None:
        """Method and target of the request; None: the head is incomplete. Empty `data`: the connection has ended.

        Raises RemoteError for bytes that are no request.
        """
        try:
            self._connection.receive_data(data)
            event = self._connection.next_event()
        except h11.RemoteProtocolError as error:
            raise RemoteError(f"not an HTTP request: {error}", "http.request") from error
        if isinstance(event, h11.Request):
            return event.method.decode("latin-1"), event.target.decode("latin-1")
        if event is h11.NEED_DATA:
            return None
        raise RemoteError("the connection ended before a request", "http.short")

    @property
    def can_answer(self) -> bool:
        """Whether an answer may still be sent on this connection."""
        return self._connection.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    def answer(self, status: int, kind: str, body: bytes) -> bytes:
        """The bytes of an answer, after which the connection ends. Works after an invalid request, too."""
        fields = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")]
        parts = [
            self._connection.send(h11.Response(status_code=status, headers=fields, reason=_REASONS[status]))
        ]
        parts += [self._connection.send(h11.Data(body)), self._connection.send(h11.EndOfMessage())]
        return b"".join(part for part in parts if part is not None)


_REASONS = {200: b"OK", 400: b"Bad Request", 404: b"Not Found", 503: b"Service Unavailable"}
