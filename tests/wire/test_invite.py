"""An invite is one string: what goes in comes out, and a copy that is not whole is told as that."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.model.document import Mediator
from netctl.model.errors import LocalError
from netctl.model.keys import IdentityKey
from netctl.wire.invite import PREFIX, Invite, pack_invite, parse_invite, token_hash

PIN = IdentityKey(bytes(range(32)))
INVITE = Invite("lan-party", bytes(range(16)), (Mediator("vps.example.org", 8443, (PIN,), tls=(443,)),))
GOLDEN = "netctl1AQABAgMEBQYHCAkKCwwNDg8JbGFuLXBhcnR5AQ92cHMuZXhhbXBsZS5vcmcCIPsBuwEAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcY"


def test_what_goes_in_comes_out() -> None:
    text = pack_invite(INVITE)
    assert text.startswith(GOLDEN)
    assert len(text) < 160
    back = parse_invite(text)
    assert (back.network, back.token) == (INVITE.network, INVITE.token)
    (mediator,) = back.mediators
    assert (mediator.host, mediator.port, mediator.tls, mediator.identity) == (
        "vps.example.org",
        8443,
        (443,),
        (PIN,),
    )


def test_a_terminals_line_breaks_do_not_matter() -> None:
    text = pack_invite(INVITE)
    assert parse_invite(f"  {text[:60]}\n {text[60:]}\r\n") == parse_invite(text)


@pytest.mark.parametrize("cut", [8, 50, -1, -5])
def test_half_a_copy_is_told_as_that(cut: int) -> None:
    with pytest.raises(LocalError, match="copy it whole"):
        parse_invite(pack_invite(INVITE)[:cut])


def test_each_wrong_character_is_noticed() -> None:
    text = pack_invite(INVITE)
    for index in range(len(PREFIX), len(text) - 1):
        wrong = "A" if text[index] != "A" else "B"
        with pytest.raises(LocalError):
            parse_invite(text[:index] + wrong + text[index + 1 :])


@given(st.text(max_size=200))
@settings(max_examples=100)
def test_anything_else_is_a_line(text: str) -> None:
    for candidate in (text, PREFIX + text):
        with pytest.raises(LocalError):
            parse_invite(candidate)


def test_the_hash_shows_no_token() -> None:
    assert INVITE.token not in token_hash(INVITE.token)
    assert len(token_hash(INVITE.token)) == 32
