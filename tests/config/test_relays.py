"""What keeps members from using a relay apart is said when the document is read, and stops nothing."""

from __future__ import annotations

import pytest

from netctl.config import load_document
from tests.support.documents import key

M, R, OTHER = (f"ed25519:{key(name)}" for name in ("m", "r", "other"))
MEDIATOR = f'  - {{url: "netctl://m.example.net:8443", identity: ["{M}"], relayPorts: 40000-40099}}\n'


def warned(entries: str) -> list[str]:
    text = f"""apiVersion: netctl/v1
mediators:
{entries}members: {{a: {{wireguard: "{key("a")}", identity: "ed25519:{key("ia")}"}}}}
networks: {{net: {{mode: routed, ipv4: 10.1.0.0/24, members: [a]}}}}
"""
    return [f"{one.code} {one.path}" for one in load_document(text).warnings]


def relay(identities: str = f'"{R}"', ports: str = "50000-50099") -> str:
    entry = f'url: "netctl://r.example.net:8443", identity: [{identities}], relayPorts: {ports}, role: relay'
    return f"  - {{{entry}}}\n"


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (MEDIATOR + relay(), []),
        (relay(), ["NC518 mediators[0].role"]),
        (MEDIATOR + relay(f'"{R}", "{OTHER}"'), ["NC519 mediators[1].identity"]),
        (MEDIATOR + relay(f'"{M}"'), ["NC520 mediators[1].identity"]),
        (MEDIATOR + relay(ports="50000-50098"), ["NC521 mediators[1].relayPorts"]),
    ],
    ids=["good", "no mediator", "two identities", "the mediator's identity", "too few ports"],
)
def test_a_relay_that_members_cannot_use(entries: str, said: list[str]) -> None:
    assert warned(entries) == said
