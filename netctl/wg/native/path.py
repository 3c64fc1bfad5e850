"""Connects the protocol (`Device`) with the data path in C (`Core`): passes on keys and endpoints, and traffic back.

`Core` owns the keys, counters and replay windows of sessions from the end of a handshake on: only it encrypts and
decrypts packets. `NativePath` tells it each peer's endpoint and session whenever the protocol changes them
(`Device.changed`). `Core` calls back for the rest: the peer of an address, a packet without a session, a datagram
without transport data. It reports each session's traffic `REPORT_S` (core.h) later, but at once the first packet of
a new session and a peer's new address.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from netctl.model.addresses import SocketAddress
from netctl.system.clock import boottime
from netctl.tunnel import Device, Effect, Keypair, Peer
from netctl.wg.udp import Udp, scope_id

if TYPE_CHECKING:
    from netctl.wg.native._core import Core

MAX_SOURCES = 4096
"""Sources cached as Python values: bounded, since an attacker may send from many sources."""
NO_PEER = -1


class NativeKeypair(Keypair):
    """A keypair whose keys, counters and replay window are in the core; `send_counter` is the last reported value."""

    __slots__ = ("path",)

    path: NativePath

    def take_keys(self, send_key: bytes, receive_key: bytes) -> None:
        """Do nothing: `NativePath.keypair` gives the keys to the core, once `path` is set."""

    def wipe(self) -> None:
        """Drop the session in the core, which overwrites the keys."""
        if self.is_alive:
            self.is_alive = False
            self.path.core.drop_session(self.local_index)


class NativePath:
    """Keeps a `Core` in step with a `Device`, and answers the core's calls (`Host`)."""

    def __init__(
        self,
        core: Core,
        device: Device,
        other: Callable[[bytes, SocketAddress], None],
        perform: Callable[[list[Effect]], None],
    ) -> None:
        self.core = core
        self._device = device
        self._other = other
        self._perform = perform
        self._numbers: dict[Peer, int] = {}
        self._peers: dict[int, Peer] = {}
        self._free: list[int] = []
        self._revision = device.allowed_ips.revision
        self._sources: dict[bytes, SocketAddress] = {}
        device.new_keypair = self.keypair

    # -- the protocol's changes ---------------------------------------------------------------------------------

    def keypair(
        self,
        peer: Peer,
        local_index: int,
        remote_index: int,
        send_key: bytes,
        receive_key: bytes,
        is_initiator: bool,
        now: float,
        unix_now: float,
    ) -> Keypair:
        """Make a keypair for the device and its session in the core."""
        made = NativeKeypair(
            peer, local_index, remote_index, send_key, receive_key, is_initiator, now, unix_now
        )
        made.path = self
        self.core.add_session(local_index, remote_index, self._number(peer), send_key, receive_key, now)
        return made

    def _number(self, peer: Peer) -> int:
        number = self._numbers.get(peer)
        if number is None:
            number = self._free.pop() if self._free else len(self._numbers)
            self._numbers[peer], self._peers[number] = number, peer
            self._tell(peer, number)
        return number

    def _tell(self, peer: Peer, number: int) -> None:
        current = peer.current
        endpoint = pack_address(peer.endpoint) if peer.endpoint is not None else b""
        index = current.local_index if current is not None and current.is_alive else None
        self.core.set_peer(number, index, endpoint, peer.endpoint_fixed)

    def follow(self) -> None:
        """Pass changes of the device's peers and allowed IPs on to the core."""
        device = self._device
        if device.allowed_ips.revision != self._revision:
            self._revision = device.allowed_ips.revision
            self.core.forget_flows()
        if device.changed:
            for peer in device.changed:
                number = self._numbers.get(peer)
                if number is None:
                    continue
                if device.peers.get(peer.public_key) is peer:
                    self._tell(peer, number)
                else:
                    self.core.drop_peer(number)
                    del self._numbers[peer], self._peers[number]
                    self._free.append(number)
            device.changed.clear()

    def set_udp(self, udp: Udp) -> None:
        """Let the core use these sockets."""
        self.core.set_sockets(udp.fileno(socket.AF_INET), udp.fileno(socket.AF_INET6))

    def forget_refusals(self) -> None:
        """Try refused GSO again and look up the zones of link-local endpoints, since routes and interfaces change."""
        self.core.forget_refusals()
        for peer in self._numbers:
            if peer.endpoint is not None and "%" in peer.endpoint.host:
                self._device.changed.add(peer)

    # -- called by the shell --------------------------------------------------------------------------------------

    def move(self, timeout: float) -> list[int]:
        """Move packets for `timeout` seconds, or until other descriptors are readable; returns these descriptors."""
        self.follow()
        return self.core.move(self, timeout)

    def packet(self, raw: memoryview, now: float) -> None:
        """Send one packet that was staged, with the next `flush`."""
        self.follow()
        self.core.transmit(self, bytes(raw))

    def keepalive(self, peer: Peer, now: float) -> None:
        """Encrypt and send an empty packet."""
        self.follow()
        keypair = peer.sendable_keypair(now)
        if keypair is not None:
            self.core.keepalive(keypair.local_index)
            self.core.flush(self)

    def flush(self, now: float) -> None:
        """Send the packets that were given to `packet`."""
        self.core.flush(self)

    # -- called by the core -----------------------------------------------------------------------------------------

    def lookup(self, address: bytes) -> int:
        """The number of the peer of an inner address, or NO_PEER."""
        peer = self._device.lookup(address)
        return self._number(peer) if peer is not None else NO_PEER

    def other(self, datagram: bytes, source: bytes) -> None:
        """Handle a datagram without transport data."""
        self._other(datagram, self._source(source))
        self.follow()

    def stage(self, number: int, raw: bytes) -> None:
        """Stage a packet, as read from the TUN, for a peer without a session."""
        self._perform(self._device.stage(self._peers[number], [raw], boottime()))

    def report(
        self,
        local_index: int,
        send_counter: int,
        tx_bytes: int,
        rx_bytes: int,
        sent_at: float,
        received_at: float,
        has_sent: int,
        has_sent_data: int,
        has_received: int,
        has_received_data: int,
        source: bytes,
    ) -> None:
        """Take one session's traffic since its last report."""
        keypair = self._device.keypair(local_index)
        if keypair is None:
            return
        peer = keypair.peer
        keypair.send_counter = send_counter
        peer.tx_bytes += tx_bytes
        peer.rx_bytes += rx_bytes
        if has_sent and not (has_received and sent_at > received_at):
            peer.data_sent(sent_at, keypair, is_keepalive=not has_sent_data)
        if has_received:
            peer.data_received(keypair, self._source(source), received_at, is_keepalive=not has_received_data)
            if has_sent and sent_at > received_at:
                peer.data_sent(sent_at, keypair, is_keepalive=not has_sent_data)
        self.follow()

    def _source(self, packed: bytes) -> SocketAddress:
        known = self._sources.get(packed)
        if known is None:
            if len(self._sources) >= MAX_SOURCES:
                self._sources.clear()
            known = self._sources[packed] = unpack_address(packed)
        return known


def pack_address(address: SocketAddress) -> bytes:
    """An address as 23 bytes: family 4 or 6, 16 address bytes (IPv4: 4, then zeros), port, scope id; network order."""
    host, _, zone = address.host.partition("%")
    packed = ipaddress.ip_address(host).packed
    family = 4 if len(packed) == 4 else 6
    scope = scope_id(zone) if zone else 0
    return (
        bytes([family]) + packed.ljust(16, b"\0") + address.port.to_bytes(2, "big") + scope.to_bytes(4, "big")
    )


def unpack_address(packed: bytes) -> SocketAddress:
    """The address of 23 bytes."""
    port, scope = int.from_bytes(packed[17:19], "big"), int.from_bytes(packed[19:23], "big")
    if packed[0] == 4:
        return SocketAddress.of(socket.inet_ntop(socket.AF_INET, packed[1:5]), port)
    host = socket.inet_ntop(socket.AF_INET6, packed[1:17])
    return SocketAddress.of(f"{host}%{scope}" if scope else host, port)
