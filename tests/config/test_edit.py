"""Members that joined by invite, written into the text of a document: nothing else moves."""

from __future__ import annotations

import json

import pytest

from netctl.config import load_document
from netctl.config.edit.textedit import add_guests
from netctl.config.resolve.guests import Guest
from netctl.model.errors import LocalError
from netctl.model.keys import IdentityKey, WireGuardKey

A = Guest("newbie", WireGuardKey(b"\1" * 32), ("lan",), IdentityKey(b"\x21" * 32))
B = Guest("on", WireGuardKey(b"\2" * 32), ("lan", "work"), IdentityKey(b"\x22" * 32))
PIN = str(IdentityKey(b"\x08" * 32))
MEDIATOR = f'mediators: [{{url: "netctl://192.0.2.1:8443", identity: ["{PIN}"]}}]'
KEY = str(WireGuardKey(b"\x09" * 32))
BLOCK = f"""# our networks
apiVersion: netctl/v1
{MEDIATOR}
members:
  home:                 # the first
    wireguard: "{KEY}"  # made in May

  # nobody else yet

networks:
  lan:
    members:
    - home  # alone
    # until now
    ipv4: 10.1.0.0/24
  work: {{members: [home], ipv4: 10.2.0.0/24}}
"""
FLOW = f"""apiVersion: netctl/v1
{MEDIATOR}
members: {{home: {{wireguard: "{KEY}"}}}}   # short
networks:
  lan: {{members: ["*"], ipv4: 10.1.0.0/24}}
  work:
    ipv4: 10.2.0.0/24
    members: [home,
              "group:invited"]
"""
NONE = f"""apiVersion: netctl/v1
{MEDIATOR}
networks:
  lan: {{members: [], ipv4: 10.1.0.0/24}}
  work: {{members: [ ], ipv4: 10.2.0.0/24}}"""
EMPTY = NONE.replace("networks:", "members:   # soon\nnetworks:", 1)
BRACES = NONE.replace("networks:", "members: {}\nnetworks:", 1)
PLAIN = {
    "apiVersion": "netctl/v1",
    "mediators": [{"url": "netctl://192.0.2.1:8443", "identity": [PIN]}],
    "members": {"home": {"wireguard": KEY}},
    "networks": {"lan": {"members": ["home"], "ipv4": "10.1.0.0/24"}},
}
JSON = json.dumps(PLAIN)


@pytest.mark.parametrize("text", [BLOCK, FLOW, NONE, EMPTY, BRACES, JSON], ids=list("123456"))
def test_every_line_that_was_there_is_there(text: str) -> None:
    guests = [A, B] if "work:" in text else [A]
    result = add_guests(text, guests)
    document = load_document(result).document
    for guest in guests:
        member = document.members[guest.name]
        assert (member.wireguard, member.identity) == (guest.key, guest.identity)
        assert member.groups == {"invited"}
        assert all(guest.name in document.networks[network].member_names for network in guest.networks)
    for comment in (
        "# our networks",
        "# the first",
        "# made in May",
        "# nobody else yet",
        "# alone",
        "# soon",
    ):
        assert (comment in result) == (comment in text)
    if text is BLOCK:
        kept = iter(result.splitlines())
        assert all(line in kept for line in text.splitlines() if "work" not in line)


def test_who_is_selected_already_is_not_named_again() -> None:
    result = add_guests(FLOW, [A, B])
    assert '["*"]' in result
    assert "newbie" not in result.split("networks:")[1]


def test_nobody_is_no_change() -> None:
    assert add_guests(BLOCK, []) == BLOCK


def test_a_layout_that_lets_no_line_in_is_said() -> None:
    odd = 'apiVersion: netctl/v1\nmembers: {}\n? networks\n: {lan: {ipv4: 10.1.0.0/24, members: [\n"*"]}}\n... \n'
    assert add_guests(odd, [A]).endswith("... \n")
    with pytest.raises(LocalError, match="no document"):
        add_guests("[]", [A])
