"""A handshake transcript fixed by injected randomness: any change to a byte on the wire shows here.

That these bytes are WireGuard's is shown in tests/netns against wireguard-go.
"""

import hashlib
import itertools

from netctl.model.addresses import SocketAddress
from netctl.tunnel import Device, FlushStaged, SendDatagram
from netctl.tunnel.messages import transport_header, transport_nonce

INITIATOR, RESPONDER = SocketAddress("192.0.2.1", 51820), SocketAddress("2001:db8::2", 51820)


class Deterministic:
    """BLAKE2s in counter mode: the same bytes on every machine."""

    def __init__(self, label: bytes) -> None:
        self.label, self.counter = label, itertools.count()

    def __call__(self, n: int) -> bytes:
        block = hashlib.blake2s(self.label + next(self.counter).to_bytes(4, "big")).digest()
        return block[:n]


def transcript(preshared_key: bytes) -> tuple[list[bytes], bytes]:
    """Initiation, response, first transport packet; and the packet as opened."""
    a = Device(hashlib.blake2s(b"initiator").digest(), Deterministic(b"a"))
    b = Device(hashlib.blake2s(b"responder").digest(), Deterministic(b"b"))
    assert a.public_key is not None
    assert b.public_key is not None
    b_at_a, a_at_b = a.add_peer(b.public_key), b.add_peer(a.public_key)
    assert b_at_a is not None
    assert a_at_b is not None
    b_at_a.preshared_key = a_at_b.preshared_key = preshared_key
    a.set_endpoint(b_at_a, RESPONDER, 0.0)
    assert a.stage(b_at_a, [b"hello"], 0.0) == []
    (initiation,) = a.handle_timer(0.0, 1_700_000_000.25)
    assert isinstance(initiation, SendDatagram)
    (response,) = b.handle_handshake(initiation.data, INITIATOR, 0.0, 1_700_000_000.25)
    assert isinstance(response, SendDatagram)
    assert a.handle_handshake(response.data, RESPONDER, 0.0, 1_700_000_000.25) == [FlushStaged(b_at_a)]
    keypair = b_at_a.sendable_keypair(0.0)
    assert keypair is not None
    assert keypair.reserve(1, 0.0) == 0
    sealed = keypair.send.encrypt(transport_nonce(0), b_at_a.take_staged()[0], b"")
    packet = transport_header(keypair.remote_index, 0) + sealed
    opened = b.keypair(keypair.remote_index, 0.0)
    assert opened is not None
    return [initiation.data, response.data, packet], opened.receive.decrypt(
        transport_nonce(0), packet[16:], b""
    )


def test_transcript_with_a_preshared_key() -> None:
    messages, opened = transcript(hashlib.blake2s(b"preshared").digest())
    assert opened == b"hello"
    assert [message.hex() for message in messages] == GOLDEN_PSK


def test_transcript_without() -> None:
    messages, opened = transcript(bytes(32))
    assert opened == b"hello"
    assert [message.hex() for message in messages] == GOLDEN_PLAIN


GOLDEN_PSK = [
    (
        "01000000414335f8935565a8bd41c69ea409ef65200ab6f30c43a48f8c1b31872a3e5e5cac7bb70961ddcd378232fa14"
        "9d6620bdf97ab12d774f7495d939b265606a8ed54c667f112aa91b9844050ac8dba9b0bcf4ed01797a02aa6206f38be6"
        "b0c76c6c01ec9b96e17c1b92e7558a13b84543cbc8d199127eb4a06c79fb397fe904df4f000000000000000000000000"
        "00000000"
    ),
    (
        "020000005ca8e0d2414335f8ee43de709cc4496190c13822014e1d18feb2501baeb2acd0e0c25ccddcc1dd779e5c8327"
        "abcb8d2d0fb1db6562c01ab53c4e9e0ec412d05203f37ec6c2ada00200000000000000000000000000000000"
    ),
    "040000005ca8e0d2000000000000000030a247aac598ace010a32d06283fd30e81df91bb86",
]
GOLDEN_PLAIN = [
    (
        "01000000414335f8935565a8bd41c69ea409ef65200ab6f30c43a48f8c1b31872a3e5e5cac7bb70961ddcd378232fa14"
        "9d6620bdf97ab12d774f7495d939b265606a8ed54c667f112aa91b9844050ac8dba9b0bcf4ed01797a02aa6206f38be6"
        "b0c76c6c01ec9b96e17c1b92e7558a13b84543cbc8d199127eb4a06c79fb397fe904df4f000000000000000000000000"
        "00000000"
    ),
    (
        "020000005ca8e0d2414335f8ee43de709cc4496190c13822014e1d18feb2501baeb2acd0e0c25ccddcc1dd77287d9d73"
        "4b058604d59c7b9d18deab9a5e26942ed4d7dd51e895bce4cac12f9b00000000000000000000000000000000"
    ),
    "040000005ca8e0d20000000000000000880887af073378245d9a50fec70eba1cc13089f66f",
]
