"""Which URLs Git reaches by ssh, and whom ssh is asked about."""

from __future__ import annotations

import pytest

from netctl.fleet.sshfamily import destination


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("ssh://git@example.net/nets.git", ("git@example.net", None)),
        ("ssh://example.net:2222/nets.git", ("example.net", 2222)),
        ("ssh://git:secret@example.net/nets.git", ("git@example.net", None)),
        ("ssh://[2001:db8::1]:22/nets.git", ("2001:db8::1", 22)),
        ("git@example.net:nets.git", ("git@example.net", None)),
        ("example.net:/srv/nets.git", ("example.net", None)),
        ("/srv/nets:old.git", None),
        ("./nets:old.git", None),
        ("git@[2001:db8::1]:nets.git", None),
        ("https://example.net/nets.git", None),
        ("file:///srv/nets.git", None),
        ("ssh://example.net:port/nets.git", None),
        ("ssh:///nets.git", None),
        ("ssh://-oProxyCommand=id/nets.git", None),
        ("-oProxyCommand=id:nets.git", None),
        ("ext::sh -c id", None),
        ("", None),
    ],
)
def test_destinations(url: str, found: tuple[str, int | None] | None) -> None:
    assert destination(url) == found
