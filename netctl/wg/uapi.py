"""WireGuard's configuration protocol, UAPI: parses and formats its text (https://www.wireguard.com/xplatform/). No I/O.

A request is `set=1` or `get=1` and lines `key=value` up to an empty line. `SetParser` takes a `set=1` request line
by line and returns one `SetRequest` at its end, or raises: no part of a bad request reaches a device.
Errors are negative errno values, as every implementation prints them.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from netctl.model.addresses import Endpoint, Prefix, SocketAddress

SET, GET = "set=1", "get=1"
GET_DATA_PATH = "get=data_path"
"""Our extension, which `wg` does not use: asks for the data path that moves the packets, for people."""
GET_CHANGED = "get=changed"
"""Our extension, with a line `since=CURSOR`: asks for the peers that have changed since (`netctl.wg.peerchanges`)."""
SINCE = "since"
MAX_LINE_LEN = 512
"""Bytes of one line. The longest legal line, an endpoint with a scope, has less than 100."""
MAX_REQUEST_LINES = 1 << 19
"""Lines of one request: eight for each of the 65,536 peers that a device can have."""
KEY_HEX_LEN = 64
_TRUE = "true"
_NO_KEY = bytes(32)


class UapiError(Exception):
    """A request was refused. `code` is a negative errno; `str(error)` is for the log."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class AllowedIpChange:
    """A prefix to add to a peer's allowed IPs, or to remove from them."""

    prefix: Prefix
    remove: bool = False


@dataclass(slots=True)
class PeerChange:
    """The part of a request about one peer. None: not mentioned. Applied in the order of the fields."""

    public_key: bytes
    remove: bool = False
    update_only: bool = False
    preshared_key: bytes | None = None
    endpoint: SocketAddress | None = None
    keepalive_s: int | None = None
    replace_allowed_ips: bool = False
    allowed_ips: list[AllowedIpChange] = field(default_factory=list)


@dataclass(slots=True)
class SetRequest:
    """A whole `set=1` request. None: not mentioned; an all-zero private key means none."""

    private_key: bytes | None = None
    listen_port: int | None = None
    fwmark: int | None = None
    replace_peers: bool = False
    peers: list[PeerChange] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """The state of one peer for `get=1`. `last_handshake`: Unix seconds, 0 is never."""

    public_key: bytes
    preshared_key: bytes
    endpoint: SocketAddress | None
    last_handshake: float
    tx_bytes: int
    rx_bytes: int
    keepalive_s: int
    allowed_ips: tuple[Prefix, ...]


# Values


def _key(text: str) -> bytes:
    if len(text) != KEY_HEX_LEN or not text.isascii() or not text.isalnum():
        raise ValueError("a key is 64 hexadecimal digits")
    return bytes.fromhex(text)


def _number(text: str, most: int) -> int:
    # int() accepts signs, spaces, underscores and other scripts' digits; no legal number has more than 10 digits.
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or int(text) > most:
        raise ValueError(f"not a number in 0-{most}")
    return int(text)


def _true(text: str) -> bool:
    if text != _TRUE:
        raise ValueError("only 'true' is allowed")
    return True


def parse_endpoint(text: str) -> SocketAddress:
    """`1.2.3.4:5`, `[2001:db8::1]:5`, `[fe80::1%eth0]:5`; never a name. Raises ValueError."""
    endpoint = Endpoint.parse(text)
    if text.startswith("[") != (":" in endpoint.host):
        raise ValueError("brackets belong around an IPv6 address")
    return SocketAddress.of(endpoint.host, endpoint.port)


def parse_allowed_ip(text: str) -> AllowedIpChange:
    """`10.0.0.0/8`, with a `-` in front to remove it; host bits are masked. Raises ValueError."""
    remove = text.startswith("-")
    address, slash, length = text.removeprefix("-").partition("/")
    if not slash or "%" in address:
        raise ValueError("an allowed IP is address/length")
    parsed = ipaddress.ip_address(address)
    # Built from the integer: ip_network would accept a mask written as an address, which is no length.
    bits = _number(length, parsed.max_prefixlen)
    masked = int(parsed) >> (parsed.max_prefixlen - bits) << (parsed.max_prefixlen - bits)
    if parsed.version == 4:
        return AllowedIpChange(IPv4Network((masked, bits)), remove)
    return AllowedIpChange(IPv6Network((masked, bits)), remove)


def _protocol_version(text: str) -> None:
    if text != "1":
        raise ValueError("only protocol version 1 is known")


# Requests


class SetParser:
    """Parses the lines after `set=1`. After the first error it skips the rest, and `finish` raises the error."""

    def __init__(self) -> None:
        self._request = SetRequest()
        self._peer: PeerChange | None = None
        self._error: UapiError | None = None
        self._lines = 0

    def feed(self, line: str) -> None:
        """Parse one line, not empty and without its line feed."""
        self._lines += 1
        if self._error is not None:
            return
        try:
            self._take(line)
        except UapiError as error:
            self._error = error
            self._request, self._peer = SetRequest(), None  # not kept while the rest is skipped

    def finish(self) -> SetRequest:
        """The whole request, at the empty line. Raises UapiError: no part of the request may be applied."""
        if self._error is not None:
            raise self._error
        return self._request

    def _take(self, line: str) -> None:
        if self._lines > MAX_REQUEST_LINES:
            raise UapiError(-errno.E2BIG, f"a request has at most {MAX_REQUEST_LINES} lines")
        key, separator, value = line.partition("=")
        if not separator:
            raise UapiError(-errno.EPROTO, "a line without '='")
        take = _DEVICE_KEYS.get(key) if self._peer is None else None
        try:
            if key == "public_key":
                self._peer = PeerChange(_key(value))
                self._request.peers.append(self._peer)
            elif take is not None:
                take(self._request, value)
            elif self._peer is not None and key in _PEER_KEYS:
                _PEER_KEYS[key](self._peer, value)
            else:
                where = "a peer" if self._peer is not None else "the device"
                raise UapiError(-errno.EINVAL, f"unknown key of {where}: {key[:40]!r}")
        except ValueError as error:
            raise UapiError(-errno.EINVAL, f"{key}: {error}") from None


def _set_private_key(request: SetRequest, value: str) -> None:
    request.private_key = _key(value)


def _set_listen_port(request: SetRequest, value: str) -> None:
    request.listen_port = _number(value, 0xFFFF)


def _set_fwmark(request: SetRequest, value: str) -> None:
    request.fwmark = _number(value, 0xFFFF_FFFF)


def _set_replace_peers(request: SetRequest, value: str) -> None:
    request.replace_peers = _true(value)


def _set_remove(peer: PeerChange, value: str) -> None:
    peer.remove = _true(value)


def _set_update_only(peer: PeerChange, value: str) -> None:
    peer.update_only = _true(value)


def _set_preshared_key(peer: PeerChange, value: str) -> None:
    peer.preshared_key = _key(value)


def _set_endpoint(peer: PeerChange, value: str) -> None:
    peer.endpoint = parse_endpoint(value)


def _set_keepalive(peer: PeerChange, value: str) -> None:
    peer.keepalive_s = _number(value, 0xFFFF)


def _set_replace_allowed_ips(peer: PeerChange, value: str) -> None:
    peer.replace_allowed_ips = _true(value)
    peer.allowed_ips.clear()  # earlier allowed IPs of the request are replaced as well


def _add_allowed_ip(peer: PeerChange, value: str) -> None:
    peer.allowed_ips.append(parse_allowed_ip(value))


def _check_version(_: PeerChange, value: str) -> None:
    _protocol_version(value)


_DEVICE_KEYS: dict[str, Callable[[SetRequest, str], None]] = {
    "private_key": _set_private_key,
    "listen_port": _set_listen_port,
    "fwmark": _set_fwmark,
    "replace_peers": _set_replace_peers,
}
_PEER_KEYS: dict[str, Callable[[PeerChange, str], None]] = {
    "remove": _set_remove,
    "update_only": _set_update_only,
    "preshared_key": _set_preshared_key,
    "endpoint": _set_endpoint,
    "persistent_keepalive_interval": _set_keepalive,
    "replace_allowed_ips": _set_replace_allowed_ips,
    "allowed_ip": _add_allowed_ip,
    "protocol_version": _check_version,
}


def parse_set(lines: Iterable[str]) -> SetRequest:
    """A whole request from the lines after `set=1`. Raises UapiError."""
    parser = SetParser()
    for line in lines:
        parser.feed(line)
    return parser.finish()


# Answers


def format_status(code: int) -> str:
    """The end of every answer: 0, or a negative errno."""
    return f"errno={code}\n\n"


def format_data_path(text: str, faults: int) -> str:
    """The answer to `get=data_path` without its end. `faults`: count of inputs whose handling failed so far."""
    return f"data_path={text}\nfaults={faults}\n"


def format_cursor(cursor: str, *, whole: bool) -> str:
    """The first lines of the answer to `get=changed`. `whole`: all peers follow, not only those that have changed."""
    return f"cursor={cursor}\nwhole={str(whole).lower()}\n"


def format_device(private_key: bytes | None, listen_port: int, fwmark: int) -> str:
    """The head of the answer to `get=1`; values that are not set are left out."""
    lines = []
    if private_key is not None and private_key != _NO_KEY:
        lines.append(f"private_key={private_key.hex()}\n")
    if listen_port:
        lines.append(f"listen_port={listen_port}\n")
    if fwmark:
        lines.append(f"fwmark={fwmark}\n")
    return "".join(lines)


def format_peer(peer: PeerStatus) -> str:
    """One peer of the answer to `get=1`."""
    return "".join(_peer_lines(peer))


def _peer_lines(peer: PeerStatus) -> Iterator[str]:
    yield f"public_key={peer.public_key.hex()}\n"
    yield f"preshared_key={peer.preshared_key.hex()}\n"
    yield "protocol_version=1\n"
    if peer.endpoint is not None:
        yield f"endpoint={peer.endpoint}\n"
    nanoseconds = int(peer.last_handshake * 1e9)
    yield f"last_handshake_time_sec={nanoseconds // 10**9}\n"
    yield f"last_handshake_time_nsec={nanoseconds % 10**9}\n"
    yield f"tx_bytes={peer.tx_bytes}\n"
    yield f"rx_bytes={peer.rx_bytes}\n"
    yield f"persistent_keepalive_interval={peer.keepalive_s}\n"
    for prefix in peer.allowed_ips:
        yield f"allowed_ip={prefix}\n"
