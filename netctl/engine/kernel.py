"""The kernel's WireGuard through generic netlink."""

from __future__ import annotations

import base64
import ipaddress
from typing import Any

from pyroute2 import WireGuard
from pyroute2.netlink.exceptions import NetlinkError

from netctl.engine.uapi import DeviceState, PeerState
from netctl.model.addresses import SocketAddress
from netctl.model.errors import EngineError
from netctl.model.hoststate import Peer
from netctl.model.keys import WireGuardKey


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class KernelDriver:
    """The same calls as `UapiDriver`. `set()` takes one peer a call and never replaces the others."""

    def __init__(self, interface: str) -> None:
        self.interface = interface
        try:
            self._wg = WireGuard()
        except NetlinkError as error:
            raise EngineError("the kernel has no WireGuard") from error

    def close(self) -> None:
        """Close the socket."""
        self._wg.close()

    def _set(self, what: str, **arguments: Any) -> None:
        try:
            self._wg.set(self.interface, **arguments)
        except NetlinkError as error:
            raise EngineError(f"{what}: {error.args[1] if len(error.args) > 1 else error}") from error

    def read(self) -> DeviceState:
        """The device as it is now; a large one comes in parts, which are merged by key."""
        device = DeviceState()
        try:
            parts = list(self._wg.info(self.interface))
        except NetlinkError as error:
            raise EngineError(f"reading {self.interface}: {error}") from error
        for part in parts:
            attrs = dict(part["attrs"])
            device.listen_port = attrs.get("WGDEVICE_A_LISTEN_PORT", device.listen_port)
            private = attrs.get("WGDEVICE_A_PRIVATE_KEY")
            if private:
                device.private_key = base64.b64decode(_text(private))
            for raw in attrs.get("WGDEVICE_A_PEERS") or ():
                self._peer(device, dict(raw["attrs"]))
        return device

    def _peer(self, device: DeviceState, attrs: dict[str, Any]) -> None:
        key = WireGuardKey.parse(_text(attrs["WGPEER_A_PUBLIC_KEY"]))
        peer = device.peers.setdefault(key, PeerState())
        endpoint = attrs.get("WGPEER_A_ENDPOINT")
        if endpoint:
            peer.endpoint = SocketAddress.of(endpoint["addr"], endpoint["port"])
        peer.keepalive_s = attrs.get("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", 0)
        peer.rx_bytes = attrs.get("WGPEER_A_RX_BYTES", 0)
        peer.tx_bytes = attrs.get("WGPEER_A_TX_BYTES", 0)
        handshake = attrs.get("WGPEER_A_LAST_HANDSHAKE_TIME") or {}
        peer.last_handshake_s = handshake.get("tv_sec", 0) + handshake.get("tv_nsec", 0) / 1e9
        for allowed in attrs.get("WGPEER_A_ALLOWEDIPS") or ():
            peer.allowed_ips.add(ipaddress.ip_network(_text(allowed["addr"])))

    def configure(self, private_key: bytes, listen_port: int) -> None:
        """Set the private key (32 bytes) and the UDP port (0: any)."""
        arguments: dict[str, Any] = {}
        current = self.read()
        if current.private_key != private_key:
            arguments["private_key"] = base64.b64encode(private_key).decode()
        if current.listen_port != listen_port:
            arguments["listen_port"] = listen_port
        if arguments:
            self._set(
                f"UDP port {listen_port} may be in use; stop what uses it, or set another `listenPort`",
                **arguments,
            )

    def set_peer(self, peer: Peer) -> None:
        """Add a peer or set it; its session goes on."""
        arguments: dict[str, Any] = {
            "public_key": str(peer.key),
            "persistent_keepalive": peer.keepalive_s,
            "allowed_ips": sorted(map(str, peer.allowed_ips)),
            "replace_allowed_ips": True,
        }
        if peer.endpoint is not None:
            arguments |= {"endpoint_addr": peer.endpoint.host, "endpoint_port": peer.endpoint.port}
        self._set(f"setting peer {peer.key.short}", peer=arguments)

    def remove_peer(self, key: WireGuardKey) -> None:
        """Remove a peer."""
        self._set(f"removing peer {key.short}", peer={"public_key": str(key), "remove": True})

    def steer(self, key: WireGuardKey, endpoint: SocketAddress) -> None:
        """Set the endpoint of an existing peer."""
        arguments = {
            "public_key": str(key),
            "endpoint_addr": endpoint.host,
            "endpoint_port": endpoint.port,
            "update_only": True,
        }
        self._set(f"steering peer {key.short}", peer=arguments)
