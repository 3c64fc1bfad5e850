"""As much of HTTP/1.1 (RFC 9112) as a router's UPnP needs: one request, one answer of bounded size, no redirects."""

from __future__ import annotations

from dataclasses import dataclass

from netctl.model.errors import RemoteError

MAX_RESPONSE = 65_536
"""Bytes with head and chunks: descriptions of real routers are 2 to 20 KB."""
MAX_HEAD = 8192
_BLANK = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer."""

    status: int
    body: bytes


def request(
    method: str, host: str, path: str, body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()
) -> bytes:
    """A request after which the connection ends."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", "User-Agent: netctl UPnP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode() + body


def response(data: bytes, *, ended: bool) -> Response | None:
    """The answer in what has arrived so far; None: not whole yet. `ended`: nothing more will come.

    Raises RemoteError for what is no HTTP, too much of it, or cut off.
    """
    head, blank, body = data.partition(_BLANK)
    if len(data) > MAX_RESPONSE or len(head) > MAX_HEAD:
        raise RemoteError("too long an HTTP answer", "http.length")
    status, headers = _head(head) if blank else (0, {})
    whole = _body(headers, body, ended) if blank else None
    if whole is not None:
        return Response(status, whole)
    if ended:
        raise RemoteError("an HTTP answer that is cut off", "http.short")
    return None


def _body(headers: dict[str, str], data: bytes, ended: bool) -> bytes | None:
    """RFC 9112 §6.3; None: more is to come."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _chunks(data)
    length = headers.get("content-length")
    if length is None:
        return data if ended else None
    if not length.isascii() or not length.isdigit() or len(length) > 6:
        raise RemoteError("not a content length", "http.length")
    return data[: int(length)] if len(data) >= int(length) else None


def _head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or len(parts[1]) != 3 or not parts[1].isdecimal():
        raise RemoteError("not an HTTP answer", "http.status")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    return int(parts[1]), headers


def _chunks(data: bytes) -> bytes | None:
    """RFC 9112 §7.1; None: more is to come."""
    parts: list[bytes] = []
    while True:
        line, end, data = data.partition(b"\r\n")
        if not end:
            return None
        size = line.partition(b";")[0].strip()
        if not size or len(size) > 6 or any(byte not in b"0123456789abcdefABCDEF" for byte in size):
            raise RemoteError("not a chunk", "http.chunk")
        length = int(size, 16)
        if length == 0:
            return b"".join(parts)
        if len(data) < length + 2:
            return None
        parts.append(data[:length])
        data = data[length + 2 :]
