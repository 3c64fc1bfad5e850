"""Applies UAPI `set` requests to a device and its shell, and answers `get` requests."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from netctl.tunnel import Device, Peer
from netctl.tunnel.constants import MAX_PEERS
from netctl.wg.peerchanges import Changes
from netctl.wg.uapi import (
    PeerChange,
    PeerStatus,
    SetRequest,
    UapiError,
    format_cursor,
    format_device,
    format_peer,
    format_status,
)

_NO_KEY = bytes(32)


class Configurable(Protocol):
    """The methods of the shell that configuration needs."""

    @property
    def device(self) -> Device:
        """The WireGuard protocol's state."""

    @property
    def listen_port(self) -> int:
        """The UDP port in use."""

    @property
    def fwmark(self) -> int:
        """The firewall mark in use, 0 is none."""

    def set_listen_port(self, port: int) -> None:
        """Bind to a UDP port (0: any). Raises OSError, with nothing changed."""

    def set_fwmark(self, mark: int) -> None:
        """Set the firewall mark. Raises OSError, with nothing changed."""

    @property
    def data_path(self) -> str:
        """The name of the data path that moves the packets, for people."""

    @property
    def faults(self) -> int:
        """Packets, datagrams and timers whose handling failed so far."""

    def now(self) -> float:
        """Monotonic seconds."""


def apply(shell: Configurable, request: SetRequest) -> None:
    """Apply the whole request. Raises UapiError with nothing changed: steps that the system may refuse come first."""
    device = shell.device
    _check_room(device, request)
    mark_before = shell.fwmark
    try:
        if request.fwmark is not None and request.fwmark != mark_before:
            shell.set_fwmark(request.fwmark)
        if request.listen_port is not None:
            shell.set_listen_port(request.listen_port)
    except OSError as error:
        if shell.fwmark != mark_before:
            with contextlib.suppress(OSError):
                shell.set_fwmark(mark_before)
        raise UapiError(-(error.errno or errno.EIO), error.strerror or str(error)) from error
    if request.private_key is not None:
        device.set_private_key(None if request.private_key == _NO_KEY else request.private_key)
    if request.replace_peers:
        for key in tuple(device.peers):
            device.remove_peer(key)
    for change in request.peers:
        _apply_peer(device, change, shell.now())


def _check_room(device: Device, request: SetRequest) -> None:
    keys = set() if request.replace_peers else set(device.peers)
    for change in request.peers:
        if change.remove:
            keys.discard(change.public_key)
        elif not change.update_only:
            keys.add(change.public_key)
        if len(keys) > MAX_PEERS:
            raise UapiError(-errno.ENOBUFS, f"a device has at most {MAX_PEERS} peers")


def _apply_peer(device: Device, change: PeerChange, now: float) -> None:
    if change.remove:
        device.remove_peer(change.public_key)
        return
    if change.update_only and change.public_key not in device.peers:
        return
    peer = device.add_peer(change.public_key)
    if peer is None:
        return  # our own key: silently ignored, as in all implementations
    if change.preshared_key is not None:
        peer.preshared_key = change.preshared_key
    if change.replace_allowed_ips:
        device.allowed_ips.remove_peer(peer)
    for allowed in change.allowed_ips:
        if allowed.remove:
            device.allowed_ips.remove(allowed.prefix, peer)
        else:
            device.allowed_ips.insert(allowed.prefix, peer)
    if change.allowed_ips:
        device.leave_loops(peer)
    if change.endpoint is not None:
        device.set_endpoint(peer, change.endpoint, now)
    if change.keepalive_s is not None:
        device.set_keepalive(peer, change.keepalive_s, now)


def answer_get(shell: Configurable) -> Iterator[str]:
    """The answer to `get=1`, in pieces of one peer: for a slow reader no copy of the whole answer stays in memory."""
    return _answer(shell, tuple(shell.device.peers.values()), lambda _key, _peer: None)


def answer_changed(shell: Configurable, changes: Changes, cursor: str) -> Iterator[str]:
    """The answer to `get=changed`: as to `get=1`, with the peers alone that have changed since `cursor`."""
    after, changed = changes.since(shell.device, cursor)
    yield format_cursor(after, whole=changed is None)
    peers = tuple(shell.device.peers.values()) if changed is None else changed
    yield from _answer(shell, peers, changes.told)


def _answer(
    shell: Configurable, peers: Sequence[Peer], told: Callable[[bytes, Peer | None], None]
) -> Iterator[str]:
    device = shell.device
    yield format_device(device.private_key, shell.listen_port, shell.fwmark)
    for peer in peers:
        present = device.peers.get(peer.public_key)
        told(peer.public_key, present)
        if present is not None:  # not removed while the reader was slow
            yield format_peer(status(device, present))
    yield format_status(0)


def status(device: Device, peer: Peer) -> PeerStatus:
    """One peer as `get=1` shows it."""
    return PeerStatus(
        public_key=peer.public_key,
        preshared_key=peer.preshared_key,
        endpoint=peer.endpoint,
        last_handshake=peer.last_handshake,
        tx_bytes=peer.tx_bytes,
        rx_bytes=peer.rx_bytes,
        keepalive_s=peer.keepalive_s,
        allowed_ips=device.allowed_ips.prefixes(peer),
    )
