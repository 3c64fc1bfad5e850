"""The TUN device, which reads and writes super-packets of up to 64 KB (linux/if_tun.h, linux/virtio_net.h)."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

TUN_PATH = "/dev/net/tun"
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x1, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6, _TUN_F_USO = 0x1, 0x2, 0x4, 0x60
_SIOCGIFMTU, _SIOCSIFMTU, _SIOCGIFINDEX = 0x8921, 0x8922, 0x8933
_RTM_NEWLINK, _NLM_F_REQUEST, _NLM_F_ACK = 16, 1, 4
_IFLA_GSO_MAX_SEGS = 40
IFNAMSIZ = 16
DEFAULT_MTU = 1420
MAX_GSO_BYTES = 65_507
"""Most bytes of one UDP GSO send."""
MAX_GSO_SEGMENTS = 64

VNET_HEADER = struct.Struct("<BBHHHH")
"""flags, gso_type, hdr_len, gso_size, csum_start, csum_offset (virtio 1.2 §5.1.6, little-endian)."""
VNET_LEN = VNET_HEADER.size
NEEDS_CSUM = 1
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 = 0, 1, 4, 5
GSO_ECN = 0x80


class Tun:
    """One TUN interface, non-blocking. `offload`: with checksum offload and TCP super-packets; `uso`: also UDP ones."""

    def __init__(self, fd: int, name: str, *, offload: bool, uso: bool) -> None:
        self.fd = fd
        self.name = name
        self.offload = offload
        self.uso = uso
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    @classmethod
    def create(cls, name: str) -> Tun:
        """Make the interface. Raises OSError: ENOENT or ENODEV without /dev/net/tun, EPERM, EBUSY for a taken name."""
        encoded = name.encode()
        if not 0 < len(encoded) < IFNAMSIZ or "/" in name or name in (".", ".."):
            raise OSError(errno.EINVAL, f"'{name}' is no interface name: 1 to 15 bytes without '/'")
        if _is_taken(name):
            raise OSError(errno.EBUSY, f"there is an interface {name} already")
        fd = os.open(TUN_PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", encoded, flags))
            offload, uso = _set_offload(fd)
            tun = cls(fd, name, offload=offload, uso=uso)
        except BaseException:
            os.close(fd)
            raise
        tun.set_mtu(DEFAULT_MTU)
        tun.limit_gso(DEFAULT_MTU)
        return tun

    def close(self) -> None:
        """Close the device, which removes the interface."""
        self._socket.close()
        os.close(self.fd)

    def _ifreq(self, value: int = 0) -> bytes:
        return struct.pack("16si20x", self.name.encode(), value)

    @property
    def mtu(self) -> int:
        """The MTU in bytes. Raises OSError (ENODEV) when the interface is gone."""
        answer = fcntl.ioctl(self._socket, _SIOCGIFMTU, self._ifreq())
        return int(struct.unpack("16si20x", answer)[1])

    def set_mtu(self, mtu: int) -> None:
        """Set the MTU in bytes. Raises OSError."""
        fcntl.ioctl(self._socket, _SIOCSIFMTU, self._ifreq(mtu))

    @property
    def index(self) -> int:
        """The interface index. Raises OSError (ENODEV) when the interface is gone."""
        answer = fcntl.ioctl(self._socket, _SIOCGIFINDEX, self._ifreq())
        return int(struct.unpack("16si20x", answer)[1])

    def current_name(self) -> str | None:
        """The present name, after any rename; None when the interface is gone."""
        try:
            answer = fcntl.ioctl(self.fd, 0x800454D2, bytes(40))  # TUNGETIFF
        except OSError:
            return None
        return bytes(answer[:IFNAMSIZ]).rstrip(b"\0").decode()

    def limit_gso(self, mtu: int) -> None:
        """Limit super-packets to what one UDP GSO send can carry encrypted; larger ones would need two sends."""
        segments = max(1, min(MAX_GSO_SEGMENTS, MAX_GSO_BYTES // (mtu + 32)))
        attribute = struct.pack("<HHI", 8, _IFLA_GSO_MAX_SEGS, segments)
        body = struct.pack("<BxHiII", socket.AF_UNSPEC, 0, self.index, 0, 0) + attribute
        header = struct.pack("<IHHII", 16 + len(body), _RTM_NEWLINK, _NLM_F_REQUEST | _NLM_F_ACK, 1, 0)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.bind((0, 0))
            netlink.sendall(header + body)
            netlink.recv(4096)  # a refusal is ignored: larger super-packets are sent in two parts


def _is_taken(name: str) -> bool:
    """Whether the name exists in this process's network namespace; /sys shows the namespace that it was mounted in."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def _set_offload(fd: int) -> tuple[bool, bool]:
    """Ask the kernel for offload; returns whether it agrees to (checksums and TCP, UDP)."""
    tcp = _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6
    for flags, offload, uso in ((tcp | _TUN_F_USO, True, True), (tcp, True, False), (0, False, False)):
        try:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, flags)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            continue
        return offload, uso
    return False, False
