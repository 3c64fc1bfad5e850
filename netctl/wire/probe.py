"""Probes: how two members find out which path between them works (DESIGN §7.3).

    0       4      5            13          25                                     54         70
    | MAGIC | kind | sender tag | nonce     | sealed: type flags transaction place    | AEAD tag |

The keys come from X25519(static, static) through HKDF-SHA256, one per direction; the seal is
ChaCha20-Poly1305 with a random 96-bit nonce (at 10 probes a second one key pair is safe for over ten
years: 2^32 messages). The sender tag is eight bytes of the same HKDF: only the pair knows which two hosts
it stands for. The receiver finds the key by one look-up of the tag, so a stranger's datagram costs no
cryptography and gets no answer. Ping and pong have the same length: an answer is never larger than its question.

Bytes after the probe are padding, which the receiver ignores: they make a ping as large as a packet of the tunnel.

A probe that goes by the relay has a kind of its own, which the seal covers: it shows how large packets may be there,
and is never taken for one that shows a direct path.

The place is a packed address. In a pong it is the address that the ping came from. In a ping it is the ping's number,
encoded as an address that no host has: members that do not know numbers decode an address and ignore it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.model.keys import WireGuardKey
from netctl.wire.datagram import (
    ADDRESS_LEN,
    KIND_PROBE,
    KIND_RELAYED_PROBE,
    MAGIC,
    pack_address,
    unpack_address,
)

LABEL = b"netctl probe v1"
TAG_LEN = 8
NONCE_LEN = 12
TRANSACTION_LEN = 8
SEAL_LEN = 16
NUMBER_PREFIX = bytes.fromhex("0100000000000000")
"""100::/64, the discard prefix (RFC 6666): a ping's number is the lower half of such an address."""
NUMBER_PORT = 9
"""The port of that address: it has no meaning, but older members refuse an address without a port."""
MAX_NUMBER = 2**64 - 1
HEADER_LEN = len(MAGIC) + 1 + TAG_LEN
PLAIN_LEN = 2 + TRANSACTION_LEN + ADDRESS_LEN
PROBE_LEN = HEADER_LEN + NONCE_LEN + PLAIN_LEN + SEAL_LEN

_PLAIN = struct.Struct(f">BB{TRANSACTION_LEN}s{ADDRESS_LEN}s")


class ProbeType(IntEnum):
    """A question (PING) or its answer (PONG)."""

    PING = 1
    PONG = 2


class ProbeFlag(IntFlag):
    """The sender's state of the path that the probe travels on."""

    NONE = 0
    HAVE_PONG = 1
    """The sender has received a pong on this path."""
    USING = 2
    """The sender has chosen this path: from the member with the lower key it asks the other member to follow."""
    DATA = 4
    """In a ping: asks the receiver to send a packet through the tunnel. In its pong: the packet was sent."""
    REFUSED = 8
    """WireGuard's packets do not arrive by this path: neither member may use it."""
    PADDED = 16
    """The sender answers pings with padding, which test the size of packets."""


KNOWN_FLAGS = 31
"""All bits that this version knows; bits of later versions are ignored."""
_FLAGS = tuple(ProbeFlag(bits) for bits in range(KNOWN_FLAGS + 1))
"""Every combination by its bits: to make one costs more than to decode the rest of a probe."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The decrypted content of a probe."""

    kind: ProbeType
    transaction: bytes
    """8 random bytes of a ping; its pong repeats them."""
    flags: ProbeFlag = ProbeFlag.NONE
    observed: SocketAddress | None = None
    """Pong only: the source address of the ping, as its receiver saw it."""
    number: int | None = None
    """Ping only, 0 to MAX_NUMBER: higher than in every earlier ping. None: the sender does not know numbers."""

    def says(self, flag: ProbeFlag) -> bool:
        """Whether it has this flag."""
        return bool(int.__and__(self.flags, flag))


@dataclass(frozen=True, slots=True)
class ProbeKeys:
    """The keys between one member and one peer: for both directions, each with its tag."""

    seal: ChaCha20Poly1305
    seal_tag: bytes
    open: ChaCha20Poly1305
    open_tag: bytes
    """The sender tag of probes *from* this peer."""


def derive_keys(private: bytes, own: WireGuardKey, peer: WireGuardKey) -> ProbeKeys:
    """The keys of a pair. `private`: the raw key of `own`. Raises ValueError for a peer key of small order."""
    shared = X25519PrivateKey.from_private_bytes(private).exchange(
        X25519PublicKey.from_public_bytes(peer.raw)
    )
    send, send_tag = _direction(shared, own, peer)
    receive, receive_tag = _direction(shared, peer, own)
    return ProbeKeys(send, send_tag, receive, receive_tag)


def _direction(shared: bytes, sender: WireGuardKey, receiver: WireGuardKey) -> tuple[ChaCha20Poly1305, bytes]:
    info = LABEL + sender.raw + receiver.raw
    okm = HKDF(algorithm=SHA256(), length=32 + TAG_LEN, salt=None, info=info).derive(shared)
    return ChaCha20Poly1305(okm[:32]), okm[32:]


def sender_tag(data: bytes) -> bytes:
    """The sender tag of a datagram that `classify` called a probe: the sender's keys are looked up by it."""
    return data[HEADER_LEN - TAG_LEN : HEADER_LEN]


def seal(keys: ProbeKeys, probe: Probe, nonce: bytes, *, relayed: bool = False) -> bytes:
    """The bytes of a probe. `nonce`: 12 fresh random bytes; `relayed`: the relay carries it."""
    header = _prefix(relayed=relayed) + keys.seal_tag
    plain = _PLAIN.pack(probe.kind, probe.flags, probe.transaction, _pack_place(probe))
    return header + nonce + keys.seal.encrypt(nonce, plain, header)


def open_probe(keys: ProbeKeys, data: bytes, *, relayed: bool = False) -> Probe:
    """Authenticate, then decode a probe. Raises RemoteError for data that the peer did not seal or that is no probe."""
    ours = data[:5] == _prefix(relayed=relayed)
    if len(data) < PROBE_LEN or not ours or sender_tag(data) != keys.open_tag:
        raise RemoteError("not a probe of this peer", "probe.header")
    nonce = data[HEADER_LEN : HEADER_LEN + NONCE_LEN]
    try:
        plain = keys.open.decrypt(nonce, data[HEADER_LEN + NONCE_LEN : PROBE_LEN], data[:HEADER_LEN])
    except InvalidTag:
        raise RemoteError("a probe that the peer did not seal", "probe.seal") from None
    kind, flags, transaction, place = _PLAIN.unpack(plain)
    if kind not in (ProbeType.PING, ProbeType.PONG):
        raise RemoteError(f"a probe of unknown type {kind}", "probe.type")
    known = _FLAGS[flags & KNOWN_FLAGS]
    if kind == ProbeType.PING and (number := _unpack_number(place)) is not None:
        return Probe(ProbeType.PING, transaction, known, number=number)
    return Probe(ProbeType(kind), transaction, known, unpack_address(place))


def _prefix(*, relayed: bool) -> bytes:
    return MAGIC + bytes([KIND_RELAYED_PROBE if relayed else KIND_PROBE])


def _pack_place(probe: Probe) -> bytes:
    if probe.number is None:
        return pack_address(probe.observed)
    return b"\6" + NUMBER_PREFIX + probe.number.to_bytes(8, "big") + NUMBER_PORT.to_bytes(2, "big")


def _unpack_number(place: bytes) -> int | None:
    prefix = b"\6" + NUMBER_PREFIX
    return int.from_bytes(place[len(prefix) : len(prefix) + 8], "big") if place.startswith(prefix) else None
