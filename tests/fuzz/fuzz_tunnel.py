"""Fuzz the decoders of the tunnel with atheris: ``python tests/fuzz/fuzz_tunnel.py [corpus] [-max_total_time=60]``.

Not run with the tests; atheris is not a dependency. A finding is any exception, any answer to bytes that nobody
signed, and anything that stays allocated.
"""

import hashlib
import itertools
import sys

import atheris

with atheris.instrument_imports(include=["netctl.tunnel"]):
    from netctl.model.addresses import SocketAddress
    from netctl.tunnel import Device
    from netctl.tunnel.messages import MACS_LEN, TRANSPORT, message_type, transport_fields
    from netctl.tunnel.primitives import MAC_LEN, hash_, mac

SOURCE = SocketAddress("192.0.2.7", 7)
_numbers = itertools.count()


def _rng(n: int) -> bytes:
    return hashlib.blake2s(next(_numbers).to_bytes(8, "big")).digest()[:n]


def _device() -> Device:
    device = Device(_rng(32), _rng)
    other = Device(_rng(32), _rng)
    assert other.public_key is not None
    peer = device.add_peer(other.public_key)
    assert peer is not None
    device.set_endpoint(peer, SOURCE, 0.0)
    device.stage(peer, [bytes(20)], 0.0)
    device.handle_timer(0.0, 1e9)
    return device


DEVICE = _device()
INDEX = next(iter(DEVICE._indices.handshakes))
assert DEVICE.public_key is not None
MAC1_KEY = hash_(b"mac1----", DEVICE.public_key)


def one_input(data: bytes) -> None:
    """Once as it is, once steered past the index and mac1 checks."""
    if message_type(data) == TRANSPORT:
        index, _ = transport_fields(data)
        assert DEVICE.keypair(index, 0.0) is None
    steered = data[:8] + INDEX.to_bytes(4, "little") + data[12:]
    steered = steered[:-MACS_LEN] + mac(MAC1_KEY, steered[:-MACS_LEN]) + bytes(MAC_LEN)
    for number, datagram in enumerate((data, steered)):
        now = next(_numbers) * 1.0  # far apart: never under load, where a good mac1 is answered by a cookie
        assert DEVICE.handle_handshake(datagram, SOURCE, now, 1e9) == [], number
    assert len(DEVICE._indices.keypairs) == 0
    assert len(DEVICE._limiter) == 0


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
