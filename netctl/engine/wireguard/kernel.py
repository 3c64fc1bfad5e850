"""The driver for the kernel's WireGuard, through generic netlink (kernel: include/uapi/linux/wireguard.h).

It has a codec of its own. Measured with 1,000 peers: pyroute2 decodes a device in 76 to 112 ms of processor time, this
module in 8 ms; pyroute2 sets one peer a call, this module hundreds.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from netctl.engine.nlsocket import (
    MAX_NESTED,
    NetlinkError,
    NetlinkSocket,
    attribute,
    attributes,
    nest,
    number,
    text,
    u32,
    walk,
)
from netctl.engine.wireguard.uapiclient import DeviceState, Openings, PeerState
from netctl.model.addresses import MAX_KNOWN, Prefix, SocketAddress, prefix_of
from netctl.model.errors import EngineError
from netctl.model.hoststate import Peer
from netctl.model.keys import WireGuardKey, known

_NETLINK_GENERIC, _GENL_ID_CTRL, _CTRL_CMD_GETFAMILY = 16, 16, 3
_CTRL_FAMILY_ID, _CTRL_FAMILY_NAME = 1, 2
_GET_DEVICE, _SET_DEVICE = 0, 1
_DEVICE_NAME, _DEVICE_PRIVATE_KEY, _DEVICE_LISTEN_PORT, _DEVICE_PEERS = 2, 3, 6, 8
_PEER_KEY, _PEER_FLAGS, _PEER_ENDPOINT, _PEER_KEEPALIVE, _PEER_HANDSHAKE = 1, 3, 4, 5, 6
_PEER_RX, _PEER_TX, _PEER_ALLOWED = 7, 8, 9
_ALLOWED_FAMILY, _ALLOWED_ADDRESS, _ALLOWED_PREFIX_LEN = 1, 2, 3
_REMOVE_ME, _REPLACE_ALLOWED, _UPDATE_ONLY = 1, 2, 4
_COMMAND = struct.Struct("=BBH")
_TIMESPEC = struct.Struct("=qq")
ALLOWED_A_PART = 1_500
"""Allowed IPs of a peer in one attribute: 40 bytes each, below `MAX_NESTED`; more are sent as further parts."""


@lru_cache(maxsize=MAX_KNOWN)
def _endpoint(value: bytes) -> SocketAddress | None:
    """The endpoint in a `sockaddr_in` or `sockaddr_in6`; None: invalid."""
    family, port = number(value[:2]), int.from_bytes(value[2:4], "big")
    raw = value[4:8] if family == socket.AF_INET else value[8:24]
    try:
        return SocketAddress.of(ipaddress.ip_address(raw), port)
    except ValueError:
        return None


def _sockaddr(endpoint: SocketAddress) -> bytes:
    address, port = endpoint.address, endpoint.port.to_bytes(2, "big")
    if address.version == 4:
        return struct.pack("=H", socket.AF_INET) + port + address.packed + bytes(8)
    return struct.pack("=H", socket.AF_INET6) + port + bytes(4) + address.packed + bytes(4)


def _allowed(allowed: Prefix) -> bytes:
    family = socket.AF_INET if allowed.version == 4 else socket.AF_INET6
    return nest(
        0,
        attribute(_ALLOWED_FAMILY, struct.pack("=H", family)),
        attribute(_ALLOWED_ADDRESS, allowed.network_address.packed),
        attribute(_ALLOWED_PREFIX_LEN, bytes([allowed.prefixlen])),
    )


def _parts(peer: Peer) -> Iterator[bytes]:
    """A peer as one nested attribute, or as several when its allowed IPs do not fit into one."""
    allowed = [_allowed(one) for one in sorted(peer.allowed_ips, key=str)]
    first = [attribute(_PEER_KEY, peer.key.raw), u32(_PEER_FLAGS, _REPLACE_ALLOWED)]
    first.append(attribute(_PEER_KEEPALIVE, struct.pack("=H", peer.keepalive_s)))
    if peer.endpoint is not None:
        first.append(attribute(_PEER_ENDPOINT, _sockaddr(peer.endpoint)))
    yield nest(0, *first, nest(_PEER_ALLOWED, *allowed[:ALLOWED_A_PART]))
    for start in range(ALLOWED_A_PART, len(allowed), ALLOWED_A_PART):
        more = allowed[start : start + ALLOWED_A_PART]
        yield nest(0, attribute(_PEER_KEY, peer.key.raw), nest(_PEER_ALLOWED, *more))


def _gone(key: WireGuardKey) -> bytes:
    return nest(0, attribute(_PEER_KEY, key.raw), u32(_PEER_FLAGS, _REMOVE_ME | _UPDATE_ONLY))


def _renewed(peer: Peer) -> Iterator[bytes]:
    """The attributes that remove a peer and add it again; the first two go in one request."""
    first, *more = _parts(peer)
    yield _gone(peer.key) + first
    yield from more


class KernelDriver:
    """Configures a link of the kernel, with the same methods as `UapiDriver`. Raises EngineError."""

    def __init__(self, interface: str) -> None:
        self.interface = interface
        self._openings = Openings()
        self._socket = NetlinkSocket(_NETLINK_GENERIC)
        try:
            self._family = self._find()
        except OSError as error:
            self._socket.close()
            raise EngineError("the kernel has no WireGuard") from error

    def _find(self) -> int:
        """The number of the netlink family; the request loads the kernel's module."""
        request = _COMMAND.pack(_CTRL_CMD_GETFAMILY, 1, 0) + text(_CTRL_FAMILY_NAME, "wireguard")
        for answer in self._socket.ask(_GENL_ID_CTRL, request):
            return number(attributes(answer[_COMMAND.size :])[_CTRL_FAMILY_ID])
        raise OSError(errno.ENOENT, "no answer")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _set(self, what: str, *parts: bytes) -> None:
        request = _COMMAND.pack(_SET_DEVICE, 1, 0) + text(_DEVICE_NAME, self.interface)
        try:
            self._socket.ask(self._family, request + b"".join(parts))
        except NetlinkError as error:
            if error.errno == errno.EPERM:
                raise EngineError(f"{what}: no permission; run as root (CAP_NET_ADMIN)") from error
            raise EngineError(f"{what}: {error.strerror}") from error

    def read(self) -> DeviceState:
        """The present state of the device; a large one comes in parts, which are merged by key."""
        request = _COMMAND.pack(_GET_DEVICE, 1, 0) + text(_DEVICE_NAME, self.interface)
        try:
            parts = self._socket.dump(self._family, request)
        except NetlinkError as error:
            raise EngineError(f"reading {self.interface}: {error.strerror}") from error
        device = DeviceState()
        for part in parts:
            attrs = attributes(part[_COMMAND.size :])
            device.listen_port = number(attrs.get(_DEVICE_LISTEN_PORT), device.listen_port)
            device.private_key = attrs.get(_DEVICE_PRIVATE_KEY, device.private_key)
            for _, raw in walk(attrs.get(_DEVICE_PEERS, b"")):
                self._peer(device, attributes(raw))
        return device

    def _peer(self, device: DeviceState, attrs: dict[int, bytes]) -> None:
        key = known(attrs[_PEER_KEY])
        peer = device.peers.get(key)
        if peer is None:  # otherwise a later part of the same peer, with only allowed IPs
            peer = device.peers[key] = PeerState()
            if _PEER_ENDPOINT in attrs:
                peer.endpoint = _endpoint(attrs[_PEER_ENDPOINT])
            peer.keepalive_s = number(attrs.get(_PEER_KEEPALIVE))
            peer.rx_bytes, peer.tx_bytes = number(attrs.get(_PEER_RX)), number(attrs.get(_PEER_TX))
            seconds, nanoseconds = _TIMESPEC.unpack(attrs.get(_PEER_HANDSHAKE, bytes(_TIMESPEC.size)))
            peer.last_handshake_s = seconds + nanoseconds / 1e9
        allowed = (attributes(raw) for _, raw in walk(attrs.get(_PEER_ALLOWED, b"")))
        peer.allowed_ips += tuple(
            prefix_of(one[_ALLOWED_ADDRESS], one[_ALLOWED_PREFIX_LEN][0]) for one in allowed
        )

    def configure(self, private_key: bytes, listen_port: int) -> None:
        """Set the private key (32 bytes) and the UDP port (0: any)."""
        current = self.read()
        if current.private_key != private_key:
            self._set("setting the private key", attribute(_DEVICE_PRIVATE_KEY, private_key))
        if current.listen_port != listen_port:
            self._set(
                f"UDP port {listen_port} may be in use; stop what uses it, or set another `listenPort`",
                attribute(_DEVICE_LISTEN_PORT, struct.pack("=H", listen_port)),
            )

    def set_peers(self, peers: Iterable[Peer]) -> None:
        """Add peers or set them; their sessions continue, and other peers stay unchanged."""
        self._set_all("setting peers", (part for peer in peers for part in _parts(peer)))

    def _set_all(self, what: str, parts: Iterable[bytes]) -> None:
        """Send nested attributes of peers, as many in a request as fit."""
        waiting: list[bytes] = []
        size = 0
        for part in parts:
            if size + len(part) > MAX_NESTED:
                self._set(what, nest(_DEVICE_PEERS, *waiting))
                waiting, size = [], 0
            waiting.append(part)
            size += len(part)
        if waiting:
            self._set(what, nest(_DEVICE_PEERS, *waiting))

    def remove_peer(self, key: WireGuardKey) -> None:
        """Remove a peer."""
        self._openings.removed(key)
        self._set(f"removing peer {key.short}", nest(_DEVICE_PEERS, _gone(key)))

    def steer(
        self,
        endpoints: Mapping[WireGuardKey, SocketAddress],
        anew: frozenset[WireGuardKey] = frozenset(),
    ) -> None:
        """Set the endpoints of existing peers, as many in a request as fit; peers that are gone are left out.

        Peers in `anew` are removed and added again in one request (`Openings`), and so are those whose first endpoint
        this is: the kernel has no other way to begin a handshake within Rekey-Timeout of the last try.
        """
        renewed = self._openings.renewed(endpoints, anew, self.read)
        moved = (
            nest(
                0,
                attribute(_PEER_KEY, key.raw),
                u32(_PEER_FLAGS, _UPDATE_ONLY),
                attribute(_PEER_ENDPOINT, _sockaddr(endpoint)),
            )
            for key, endpoint in endpoints.items()
            if key not in renewed
        )
        again = (part for peer in renewed.values() for part in _renewed(peer))
        self._set_all("setting endpoints", [*moved, *again])
