"""What receive offload merges is told apart again: nothing of ours is lost, nothing else comes out."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netctl.wire import stun
from netctl.wire.datagram import MAGIC, DatagramKind, classify
from netctl.wire.merged import MAX_MERGED, TAIL_LENGTHS, split

PROBE = MAGIC + b"\x01" + bytes(range(65))
COOKIE = MAGIC + b"\x11" + bytes(40)
BOUND = MAGIC + b"\x13" + bytes(44)
STUN = stun.binding_request(b"t" * 12)
DATA = b"\x04\0\0\0" + bytes(92)


def test_a_message_alone_is_itself() -> None:
    assert sorted(TAIL_LENGTHS, reverse=True) == [len(PROBE), len(BOUND), len(COOKIE)] == list(TAIL_LENGTHS)
    for message in (PROBE, COOKIE, BOUND, STUN, PROBE[:9], MAGIC, MAGIC + b"?", STUN[:18]):
        assert split(message) == [message]


def test_several_of_one_length_and_a_shorter_last_one() -> None:
    other = PROBE[:40] + os.urandom(30)
    assert split(PROBE + other + PROBE) == [PROBE, other, PROBE]
    assert split(PROBE + other + BOUND) == [PROBE, other, BOUND]
    assert split(PROBE + DATA[:32]) == [PROBE]  # a keepalive
    assert split(STUN + STUN) == [STUN, STUN]


@pytest.mark.parametrize("last", [PROBE, COOKIE, BOUND])
@pytest.mark.parametrize("before", [1, 2, 40])
def test_the_last_one_behind_data(last: bytes, before: int) -> None:
    assert split(DATA * before + last) == [last]


def test_data_is_not_ours() -> None:
    assert split(DATA) == split(DATA * 3) == split(b"") == split(PROBE[1:]) == []
    assert len(split(PROBE * 500)) == MAX_MERGED


pieces = st.sampled_from([PROBE, COOKIE, BOUND, STUN, DATA, MAGIC]) | st.binary(max_size=90)


@given(st.lists(pieces, max_size=8).map(b"".join))
def test_whatever_comes_is_cut_into_what_was_there(data: bytes) -> None:
    found = split(data)
    assert len(found) <= MAX_MERGED
    assert sum(map(len, found)) <= len(data)
    assert all(piece in data for piece in found)
    if len(found) > 1:
        assert all(classify(piece) is not DatagramKind.WIREGUARD for piece in found)
