"""docs/protocol.md played: every example in it, byte for byte, with the real code and by the text's own rules."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.session.login import check_login, transcript
from netctl.wire import control as w
from netctl.wire import probe, registration, relay, stun
from netctl.wire.frame import LIMIT_AFTER_LOGIN, LIMIT_BEFORE_LOGIN, FrameDecoder, encode_frame
from netctl.wire.relayframe import frame

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
BLOCK = re.compile(r"^```(\w+) ([\w-]+)\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
MEMBER, MEDIATOR = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 3))
NONCES = bytes(range(32)), bytes(range(32, 64))
SEEN = SocketAddress.of("203.0.113.9", 51820)


def blocks(language: str) -> Iterator[tuple[str, str]]:
    return ((word, text) for kind, word, text in BLOCK.findall(TEXT) if kind == language)


HEX = {word: bytes.fromhex(text) for word, text in blocks("hex")}
MESSAGES = [(who, text.encode()) for who, text in blocks("json")]


def wireguard(number: int) -> WireGuardKey:
    private = X25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    return WireGuardKey(private.public_key().public_bytes_raw())


def identity(private: Ed25519PrivateKey) -> IdentityKey:
    return IdentityKey(private.public_key().public_bytes_raw())


@pytest.mark.parametrize("example", [text for _, text in MESSAGES])
def test_an_example_is_a_message_byte_for_byte(example: bytes) -> None:
    assert w.encode(w.decode(example)) == example


def test_every_message_has_an_example_or_a_section_of_its_own() -> None:
    shown = {json.loads(text)["type"] for _, text in MESSAGES}
    tags = {kind.__struct_config__.tag for kind in get_args(w.Message)}
    described = {tag for tag in tags - shown if f"`{tag}`" in TEXT.split("## Enrolment")[1]}
    assert shown | described == tags


def test_the_registration_of_a_relay() -> None:
    examples = [text.encode() for _, text in blocks("registration")]
    found = [registration.decode(example) for example in examples]
    assert [registration.encode(message) for message in found] == examples
    kinds = {type(message) for message in found} | {w.Error}
    assert kinds == set(get_args(registration.Message))
    hello, register = found[:2]
    assert isinstance(hello, registration.Hello)
    assert isinstance(register, registration.Register)
    pin, relay_key = identity(MEDIATOR), identity(MEMBER)
    parts = (b"netctl relay registration", struct.pack(">I", 1), pin.raw, *NONCES, relay_key.raw)
    by_hand = b"".join(struct.pack(">I", len(part)) + part for part in parts)
    assert register.signature == MEMBER.sign(by_hand).hex()
    assert registration.check(register, bytes.fromhex(hello.nonce), pin) == relay_key
    assert f"`{registration.REGISTER_ALPN}`" in TEXT


def test_the_frame() -> None:
    hello = next(text for _, text in MESSAGES if b'"hello"' in text)
    assert HEX["frame"] == struct.pack(">I", len(hello)) + hello == encode_frame(hello)
    assert FrameDecoder().feed(HEX["frame"]) == [hello]
    for limit in (LIMIT_BEFORE_LOGIN, LIMIT_AFTER_LOGIN):
        assert f"{limit:,}" in TEXT


def test_the_login() -> None:
    (login,) = (w.decode(text) for _, text in MESSAGES if b'"login",' in text)
    assert isinstance(login, w.Login)
    pin, own, key = identity(MEDIATOR), identity(MEMBER), wireguard(2)
    parts = (b"netctl login", struct.pack(">I", 1), pin.raw, *NONCES, own.raw, key.raw)
    by_hand = b"".join(struct.pack(">I", len(part)) + part for part in parts)
    assert HEX["transcript"] == by_hand == transcript(1, pin, *NONCES, own, key)
    assert login.signature == MEMBER.sign(by_hand).hex()
    assert (login.identity, login.wireguard, login.nonce) == (str(own), str(key), NONCES[1].hex())
    check_login(login, NONCES[0], pin, own)


def test_stun() -> None:
    assert HEX["stun-request"] == stun.binding_request(b"netctl-stun1")
    assert HEX["stun-success"] == stun.binding_success(b"netctl-stun1", SEEN)
    assert stun.decode(HEX["stun-success"]).mapped == SEEN
    assert len(HEX["stun-success"]) <= len(HEX["stun-request"])
    assert HEX["stun-load"] == stun.binding_success(b"netctl-stun1", SEEN, load=2)
    assert stun.decode(HEX["stun-load"]).load == 2


def test_stun_from_elsewhere() -> None:
    asked, other = HEX["stun-change"], SocketAddress.of("192.0.2.2", 3479)
    assert asked == stun.binding_request(b"netctl-stun1", stun.CHANGE_ADDRESS | stun.CHANGE_PORT)
    answer = stun.answer_from(asked, SEEN, other, second_address=True)
    assert answer == stun.Answer(HEX["stun-other"], other_address=True, other_port=True)
    assert stun.decode(HEX["stun-other"]).other == other
    assert stun.answer_from(asked, SEEN, None) == stun.Answer(HEX["stun-refused"])
    assert stun.decode(HEX["stun-refused"]).kind == stun.BINDING_ERROR


def test_the_probe() -> None:
    keys = probe.derive_keys(b"\2" * 32, wireguard(2), wireguard(4))
    ping = probe.Probe(probe.ProbeType.PING, b"12345678", probe.ProbeFlag.HAVE_PONG, None)
    assert HEX["probe"] == probe.seal(keys, ping, bytes(12))
    theirs = probe.derive_keys(b"\4" * 32, wireguard(4), wireguard(2))
    assert probe.open_probe(theirs, HEX["probe"]) == ping
    numbered = probe.Probe(
        probe.ProbeType.PING, b"12345678", probe.ProbeFlag.HAVE_PONG, None, 1_800_000_000_000_000
    )
    assert HEX["probe-numbered"] == probe.seal(keys, numbered, bytes(12))
    assert probe.open_probe(theirs, HEX["probe-numbered"]) == numbered
    padded = probe.Probe(probe.ProbeType.PING, b"12345678", probe.ProbeFlag.PADDED, None)
    assert HEX["probe-relayed"] == probe.seal(keys, padded, bytes(12), relayed=True)
    assert probe.open_probe(theirs, HEX["probe-relayed"], relayed=True) == padded
    for data, relayed in ((HEX["probe-relayed"], False), (HEX["probe"], True)):
        with pytest.raises(RemoteError):
            probe.open_probe(theirs, data, relayed=relayed)


def test_the_relay() -> None:
    right = relay.Allocation(40001, 40002, 1_800_000_000)
    key = right.key(bytes(range(32)))
    (grant,) = (w.decode(text) for _, text in MESSAGES if b'"relay-grant"' in text)
    assert isinstance(grant, w.RelayGrant)
    assert (grant.allocation, grant.key, grant.expires_s) == (right.pack().hex(), key.hex(), right.expires_s)
    messages: dict[str, relay.RelayMessage] = {
        "bind": relay.Bind(right, b"12345678"),
        "cookie": relay.Cookie(b"12345678", b"c" * 16),
        "confirm": relay.Confirm(right, b"abcdefgh", b"c" * 16),
        "bound": relay.Bound(b"abcdefgh", relay.BoundFlag.PEER_BOUND, SEEN),
    }
    for name, message in messages.items():
        assert HEX[name] == relay.seal(message, key)
        assert relay.open_message(HEX[name], key) == message
    assert len(HEX["cookie"]) <= len(HEX["bind"])
    assert frame(40002, HEX["bind"]) == HEX["relay-frame"]
    assert len(HEX["bound"]) <= len(HEX["confirm"])
