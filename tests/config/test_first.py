"""The first document: whatever is asked for, it is valid, laid out, and small."""

from __future__ import annotations

import random
from ipaddress import IPv4Network, ip_network

import pytest

from netctl.config import load_document
from netctl.config.edit.fmt import format_text
from netctl.config.edit.template import Host, Server, first_document, free_pool, installation_id
from netctl.config.edit.textedit import add_guests
from netctl.config.resolve.guests import Guest
from netctl.model.document import Mode
from netctl.model.errors import ConfigError, LocalError
from netctl.model.keys import IdentityKey, WireGuardKey

WIREGUARD = "oN9b+VcZct4Fqc0LWGekk0FboKkwHmJhBGo/bJHOfQo="
IDENTITY = "ed25519:RLUqQjGk080fM88rZF/mai05tuts09GYn/20yDrmuV0="
SERVER = Server("netctl://vps.example.org:8443", "ed25519:rBfNRavrf94yT0BzEkz65XMLgvWua8P9DVoTJ6/bbCo=")


def text(
    *, name: str = "nas", network: str = "home", mode: str = "lan", servers: tuple[Server, ...] = ()
) -> str:
    return first_document(
        host=Host(name, WIREGUARD, IDENTITY, [] if servers else ["nas.example.org:51820"]),
        installation="q7m2-x4ta",
        network=network,
        mode=mode,
        pool=IPv4Network("10.77.5.0/24"),
        servers=servers,
    )


@pytest.mark.parametrize("mode", ["lan", "routed"])
@pytest.mark.parametrize("servers", [(), (SERVER,)])
def test_it_is_valid_without_a_warning(mode: str, servers: tuple[Server, ...]) -> None:
    written = text(mode=mode, servers=servers)
    loaded = load_document(written)
    assert loaded.warnings == ()
    network = loaded.document.networks["home"]
    assert network.mode is Mode(mode)
    assert network.member_names == ("nas",)
    assert [str(address) for address in network.addresses.get("nas", ())] == (
        [] if servers else ["10.77.5.1"]
    )
    assert len(loaded.document.mediators) == len(servers)
    assert format_text(written, "networks.yaml") == written


def test_what_it_offers_in_comments_is_valid_too() -> None:
    """Each comment that is a key can be switched on."""
    written = text(servers=(SERVER,))
    for line in written.splitlines():
        if line.strip().startswith(("# acls:", "#   - {", "# join:")):
            written = written.replace(line, line.replace("# ", "", 1))
    network = load_document(written).document.networks["home"]
    assert network.acls is not None
    assert len(network.acls) == 2
    assert network.join.invites


def test_without_a_host_it_lets_invites_in() -> None:
    written = first_document(
        host=None,
        installation="q7m2-x4ta",
        network="home",
        mode="lan",
        pool=IPv4Network("10.77.5.0/24"),
        servers=(SERVER,),
    )
    loaded = load_document(written)
    assert loaded.warnings == ()
    assert loaded.document.members == {}
    assert loaded.document.networks["home"].join.invites
    assert format_text(written, "networks.yaml") == written
    guest = Guest("nas", WireGuardKey.parse(WIREGUARD), ("home",), IdentityKey.parse(IDENTITY))
    exported = load_document(add_guests(written, [guest])).document
    assert exported.networks["home"].member_names == ("nas",)


def test_a_bad_name_is_for_the_loader_to_say() -> None:
    with pytest.raises(ConfigError):
        load_document(text(network="Not a name"))


@pytest.mark.parametrize("bad", ["", "netctl://vps.example.org:8443", "#ed25519:x", "netctl://vps:1#"])
def test_half_a_mediator_is_told_as_that(bad: str) -> None:
    with pytest.raises(LocalError, match="URL#IDENTITY"):
        Server.parse(bad)


def test_a_pool_is_where_the_host_has_no_route() -> None:
    chance = random.Random(1)
    numbers = [chance.getrandbits(16) for _ in range(64)]
    first = free_pool(numbers, [])
    assert free_pool(numbers, [ip_network("0.0.0.0/0"), ip_network("0.0.0.0/1"), ip_network("::/0")]) == first
    second = free_pool(numbers, [first])
    assert not second.overlaps(first)
    assert not free_pool(numbers, [ip_network("10.0.0.0/9")]).overlaps(IPv4Network("10.0.0.0/9"))
    with pytest.raises(LocalError, match="--ipv4"):
        free_pool(numbers, [ip_network("10.0.0.0/8")])


def test_the_id_is_one_that_the_schema_takes() -> None:
    made = installation_id(bytes(range(0, 256, 32)))
    assert len(made) == 9
    load_document(text().replace("q7m2-x4ta", made))
