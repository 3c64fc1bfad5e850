"""Control messages and frames: whatever comes, a message or a RemoteError."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.model.errors import RemoteError
from netctl.wire import control as w
from netctl.wire.frame import HEADER_LEN, LIMIT_AFTER_LOGIN, LIMIT_BEFORE_LOGIN, FrameDecoder, encode_frame

KEY = "A" * 43 + "="
IDENTITY = f"ed25519:{KEY}"
CANDIDATE = w.Candidate("host", "192.0.2.1:51820")
EXAMPLES: list[w.Message] = [
    w.Hello(1, "00" * 32),
    w.Login(1, IDENTITY, KEY, "00" * 32, "00" * 64, "00" * 32),
    w.EnrolStart(1),
    w.EnrolChallenge(KEY),
    w.Enrol(1, IDENTITY, KEY, "newbie", "00" * 16, "00" * 32, "00" * 64, "00" * 32, True),
    w.Enrolled("newbie", "lan", admitted=True),
    w.Rotate(1, KEY, IDENTITY, KEY, "00" * 32, "00" * 64, "00" * 32, "00" * 64),
    w.Rotated("newbie"),
    w.Welcome(1, 2, "192.0.2.1:5", ["192.0.2.1:3478"], 20.0, "store", 1),
    w.ViewChunk(0, 1, [w.MemberRow("ann", KEY)], [w.LeaseRow("lan", KEY, ["10.0.0.1"])], "text"),
    w.ViewRows(0, 1, [w.RowNetwork("lan", "fd00::/64")], [w.Row("ann", KEY, "0 10.0.0.1 +")], "text"),
    w.ViewDelta("00" * 32, [w.MemberRow("ann", KEY)], [KEY], [], [w.LeaseName("lan", KEY)], "text"),
    w.Sealed(7, "00" * 32, IDENTITY, "00" * 64, "80"),
    w.Presence(KEY, online=True),
    w.Interest([KEY], [KEY], all=True),
    w.Presences([KEY], [KEY]),
    w.Candidates(KEY, 1, [CANDIDATE]),
    w.Introduction(KEY, 1, [CANDIDATE]),
    w.Punch(KEY, 50),
    w.Candidates(KEY, 1, [CANDIDATE], None, [w.RelayTime(20), w.RelayTime(0, IDENTITY)]),
    w.Introduction(KEY, 1, [CANDIDATE], None, [w.RelayTime(60_000, IDENTITY)]),
    w.RelayRequest(KEY),
    w.RelayRequest(KEY, IDENTITY),
    w.RelayGrant(KEY, "0.0.0.0:50000", "00", "00" * 32, 5, IDENTITY),
    w.RelayGrant(KEY, "192.0.2.1:40000", "00", "00" * 32, 5),
    w.Ping(1),
    w.Pong(1),
    w.Refresh(),
    w.Leave(),
    w.Error("code", "message"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_every_message_survives_the_wire(message: w.Message) -> None:
    assert w.decode(w.encode(message)) == message


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_every_message_survives_compression_and_is_none_to_who_expects_json(message: w.Message) -> None:
    data = w.compressed(w.encode(message))
    assert data.startswith(w.COMPRESSED)
    assert w.decode_any(data) == message
    assert w.decode_any(w.encode(message)) == message
    with pytest.raises(RemoteError):
        w.decode(data)


def test_what_is_compressed_may_be_as_long_as_a_frame_and_no_longer() -> None:
    ping = w.encode(w.Ping(1))
    longest = ping + b" " * (LIMIT_AFTER_LOGIN - len(ping))
    assert w.decode_any(w.compressed(longest)) == w.Ping(1)
    for size in (LIMIT_AFTER_LOGIN + 1, 50_000_000):
        with pytest.raises(RemoteError, match="longer than a frame"):
            w.decode_any(w.compressed(b" " * size))


@given(st.binary(max_size=100), st.integers(1, 8))
def test_compressed_messages_that_are_cut_off_or_go_on_are_refused(more: bytes, less: int) -> None:
    data = w.compressed(w.encode(w.Ping(1)))
    for bad in (data[:-less], data + b"!" + more, w.COMPRESSED + more):
        with pytest.raises(RemoteError):
            w.decode_any(bad)


def test_there_is_an_example_of_every_message() -> None:
    assert {type(message) for message in EXAMPLES} == set(get_args(w.Message))


@given(st.binary(max_size=300))
@settings(max_examples=100)
def test_no_bytes_are_a_surprise(data: bytes) -> None:
    with pytest.raises(RemoteError):
        w.decode(data)


@given(st.sampled_from(EXAMPLES), st.data())
@settings(max_examples=200)
def test_a_message_with_any_value_in_any_field_is_refused_or_can_be_sent_on(
    message: w.Message, data: st.DataObject
) -> None:
    plain = json.loads(w.encode(message))
    field = data.draw(st.sampled_from(sorted(plain)))
    plain[field] = data.draw(JSON)
    try:
        decoded = w.decode(json.dumps(plain).encode())
    except RemoteError:
        return
    assert w.decode(w.encode(decoded)) == decoded


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "ping", "id": -1}',
        '{"type": "ping", "id": 1.5}',
        '{"type": "ping"}',
        '{"type": "pint", "id": 1}',
        '{"type": "punch", "peer": "' + KEY + '", "after_ms": 10001}',
        '{"type": "presence", "peer": "short", "online": true}',
        '{"type": "hello", "version": 1, "nonce": "0"}',
        '{"type": "hello", "version": 1, "nonce": "' + "00" * 129 + '"}',
        '{"type": "error", "code": "\\ud800", "message": ""}',
        "[" * 100_000,
    ],
)
def test_bounds(text: str) -> None:
    with pytest.raises(RemoteError):
        w.decode(text.encode())


def test_more_interest_than_a_connection_may_have_is_refused() -> None:
    most = w.Interest([KEY] * w.MAX_INTEREST)
    assert w.decode(w.encode(most)) == most
    for message in (w.Interest([KEY] * (w.MAX_INTEREST + 1)), w.Presences([], [KEY] * (w.MAX_INTEREST + 1))):
        with pytest.raises(RemoteError):
            w.decode(w.encode(message))


def test_presence_of_more_members_than_a_view_may_have_is_refused() -> None:
    most = w.Sealed(1, "00" * 32, IDENTITY, "00" * 64, "00" * (w.MAX_VIEW_MEMBERS // 8))
    assert w.decode(w.encode(most)) == most
    with pytest.raises(RemoteError):
        w.decode(w.encode(w.Sealed(1, "00" * 32, IDENTITY, "00" * 64, most.online + "00")))


def test_more_candidates_than_a_host_has_are_refused() -> None:
    most = w.Candidates(KEY, 1, [CANDIDATE] * w.MAX_CANDIDATES)
    assert w.decode(w.encode(most)) == most
    with pytest.raises(RemoteError):
        w.decode(w.encode(w.Candidates(KEY, 1, [CANDIDATE] * (w.MAX_CANDIDATES + 1))))


@given(st.lists(st.binary(max_size=200), max_size=6), st.lists(st.integers(1, 64), min_size=1, max_size=30))
@settings(max_examples=60)
def test_frames_come_out_whole_however_they_were_torn(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(encode_frame(payload) for payload in payloads)
    decoder, found, at, turn = FrameDecoder(), [], 0, 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        found += decoder.feed(stream[at : at + step])
        at, turn = at + step, turn + 1
    assert found == payloads


@given(st.lists(st.binary(max_size=64), max_size=20))
@settings(max_examples=60)
def test_a_stranger_gets_frames_or_a_refusal(pieces: list[bytes]) -> None:
    decoder = FrameDecoder()
    with suppress(RemoteError):
        for piece in pieces:
            assert all(len(frame) <= LIMIT_BEFORE_LOGIN for frame in decoder.feed(piece))


def test_limits_are_exact() -> None:
    assert FrameDecoder().feed(encode_frame(bytes(LIMIT_BEFORE_LOGIN))) == [bytes(LIMIT_BEFORE_LOGIN)]
    with pytest.raises(RemoteError):
        FrameDecoder().feed((LIMIT_BEFORE_LOGIN + 1).to_bytes(HEADER_LEN, "big"))
    large = encode_frame(bytes(LIMIT_AFTER_LOGIN))
    assert FrameDecoder(LIMIT_AFTER_LOGIN).feed(large) == [bytes(LIMIT_AFTER_LOGIN)]
    with pytest.raises(ValueError, match="at most"):
        encode_frame(bytes(LIMIT_AFTER_LOGIN + 1))


@pytest.mark.parametrize("digits", [17, 400, 4300, 4301, 20_000])
@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_no_number_has_more_digits_than_we_could_write(message: w.Message, digits: int) -> None:
    """Python refuses to write an integer of more than 4,300 digits, which would break an answer that holds it."""
    plain = json.loads(w.encode(message))
    for field, value in plain.items():
        if isinstance(value, int) and not isinstance(value, bool):
            text = json.dumps({**plain, field: 0}).replace(f'"{field}": 0', f'"{field}": {"9" * digits}')
            with pytest.raises(RemoteError):
                w.decode(text.encode())
