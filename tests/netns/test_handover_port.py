"""The client half of netctl-wg's handover, against a server that speaks the seam on a Unix socket."""

from __future__ import annotations

import select
import socket
import stat
from pathlib import Path

import pytest

from netctl.engine.port.handoverport import HandoverPort
from netctl.model.addresses import SocketAddress
from netctl.model.errors import EngineError
from netctl.wire.datagram import pack_address, unpack_address

pytestmark = pytest.mark.netns

V4, V6 = SocketAddress("192.0.2.7", 51820), SocketAddress("2001:db8::7", 9)


def server_at(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.settimeout(2)
    server.bind(str(path))
    return server


def test_subscribe_receive_send_and_leave_nothing(tmp_path: Path) -> None:
    path = tmp_path / "wg0.handover"
    with server_at(path) as server:
        port = HandoverPort(path, 8)
        hello, client = server.recvfrom(100)
        assert hello == b"\x00"
        assert stat.S_IMODE(Path(client).stat().st_mode) == 0o600
        for source in (V4, V6):
            server.sendto(pack_address(source) + b"payload", client)
        server.sendto(b"short", client)
        server.sendto(bytes(25), client)
        assert select.select([port], [], [], 1)[0]
        assert port.receive() == [(b"payload", V4), (b"payload", V6)]
        assert port.receive() == []
        assert port.send(V4, b"question")
        assert port.send(V6, b"low", ttl=3)
        plain, low = server.recv(100), server.recv(100)
        assert (plain[:1], unpack_address(plain[1:20]), plain[20:]) == (b"\x01", V4, b"question")
        assert (low[:1], unpack_address(low[1:20]), low[20:]) == (b"\x02", V6, b"\x03low")
        port.close()
        port.close()
    assert not Path(client).exists()


def test_a_restarted_server_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "wg0.handover"
    with server_at(path):
        port = HandoverPort(path, 8)
    assert not port.send(V4, b"nobody there")
    path.unlink()
    with server_at(path) as server:
        assert port.send(V4, b"again")
        assert server.recv(100) == b"\x00"
        assert server.recv(100)[20:] == b"again"
    port.close()


def test_no_server_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="netctl-wg does not answer"):
        HandoverPort(tmp_path / "none.sock", 8)
    assert list(tmp_path.iterdir()) == []
