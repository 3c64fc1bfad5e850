"""What a member's `interfaces:` say of a link."""

from __future__ import annotations

import pytest

from netctl.engine.links.interfaces import chosen


@pytest.mark.parametrize(
    ("name", "patterns", "said"),
    [
        ("eth0", (), None),
        ("eth0", ("eth*",), True),
        ("wlan0", ("eth*",), False),
        ("eth1", ("eth*", "!eth1"), False),
        ("eth1", ("!eth1", "eth*"), False),  # what denies goes before all that allow, wherever it stands
        ("eth0", ("!docker*", "!br-*"), None),
        ("br-12ab", ("!docker*", "!br-*"), False),
        ("br0", ("*", "br0"), True),
        ("eth0", ("*", "br0"), None),
        ("Eth0", ("eth*",), False),
        ("eth0.100", ("eth0",), False),
        ("eth0.100", ("eth?.1*",), True),
    ],
)
def test_patterns(name: str, patterns: tuple[str, ...], said: bool | None) -> None:
    assert chosen(name, patterns) is said
