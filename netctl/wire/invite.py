"""An invite as one string: the mediators' addresses and identity keys, the token, and the network's name.

`netctl1` and, in base64url without padding: a version byte, the token (16 bytes), the network's name, then each
mediator with host, ports and pins. Each text and list begins with its length in one byte. The last 4 bytes are
BLAKE2s (RFC 7693) over all bytes before: they tell a string that was copied in part from one that is wrong.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from netctl.model.addresses import is_host
from netctl.model.document import Mediator
from netctl.model.errors import LocalError
from netctl.model.keys import KEY_LEN, IdentityKey

PREFIX = "netctl1"
VERSION = 1
TOKEN_LEN = 16
CHECK_LEN = 4
MAX_TEXT = 2048
"""Characters: four mediators with four pins each are under 1 KiB."""
MAX_MEDIATORS = 4
MAX_PINS = 4
MAX_PORTS = 4


@dataclass(frozen=True, slots=True)
class Invite:
    """The content of an invite's string. `token`: 16 random bytes."""

    network: str
    token: bytes
    mediators: tuple[Mediator, ...]


def token_hash(token: bytes) -> bytes:
    """The hash of a token, which the mediator stores: 128 random bits need no slow hash."""
    return hashlib.blake2s(b"netctl invite" + token).digest()


def pack_invite(invite: Invite) -> str:
    """The string of an invite. Raises ValueError for a token of another length, or a field that does not fit."""
    if len(invite.token) != TOKEN_LEN:
        raise ValueError(f"a token is {TOKEN_LEN} bytes")
    data = bytes([VERSION]) + invite.token + _text(invite.network)
    mediators = invite.mediators[:MAX_MEDIATORS]
    data += bytes([len(mediators)])
    for mediator in mediators:
        ports = tuple(dict.fromkeys((mediator.port, *mediator.tls)))[:MAX_PORTS]
        pins = mediator.identity[:MAX_PINS]
        data += _text(mediator.host) + bytes([len(ports)])
        data += b"".join(port.to_bytes(2, "big") for port in ports)
        data += bytes([len(pins)]) + b"".join(pin.raw for pin in pins)
    return PREFIX + base64.urlsafe_b64encode(data + _check(data)).decode().rstrip("=")


def parse_invite(text: str) -> Invite:
    """The invite of a string; white space from a terminal or a mail is ignored. Raises LocalError."""
    text = "".join(text.split())
    if not text.startswith(PREFIX) or len(text) > MAX_TEXT:
        raise LocalError(f"this is no invite: one begins with '{PREFIX}' and comes from `netctl invite`")
    body = text[len(PREFIX) :]
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    data, check = data[:-CHECK_LEN], data[-CHECK_LEN:]
    if not data or _check(data) != check:
        raise LocalError("this invite is damaged: copy it whole, from the first character to the last")
    if data[0] != VERSION:
        raise LocalError(f"this invite is of version {data[0]}: install the netctl that the mediator has")
    try:
        return _Reader(data[1:]).invite()
    except (IndexError, ValueError) as error:
        raise LocalError("this invite makes no sense, though it was copied whole: ask for another") from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) != count:
            raise ValueError("too short")
        self._at += count
        return part

    def text(self) -> str:
        text = self.take(self.take(1)[0]).decode()
        if not text.isprintable() or not text:
            raise ValueError("not a name")
        return text

    def invite(self) -> Invite:
        token, network = self.take(TOKEN_LEN), self.text()
        mediators = []
        for _ in range(self.take(1)[0]):
            host = self.text()
            if not is_host(host):
                raise ValueError("not a host")
            ports = [int.from_bytes(self.take(2), "big") for _ in range(self.take(1)[0])]
            pins = tuple(IdentityKey(self.take(KEY_LEN)) for _ in range(self.take(1)[0]))
            if not ports or not pins or 0 in ports:
                raise ValueError("a mediator without a port or a pin")
            mediators.append(Mediator(host, ports[0], pins, tls=tuple(ports[1:])))
        if not mediators or self._at != len(self._data):
            raise ValueError("no mediator, or more than an invite")
        return Invite(network, token, tuple(mediators))


def _text(text: str) -> bytes:
    raw = text.encode()
    return bytes([len(raw)]) + raw


def _check(data: bytes) -> bytes:
    return hashlib.blake2s(b"netctl invite check" + data, digest_size=CHECK_LEN).digest()
