"""No word of a document acts: what reaches Ansible, ssh, nft, the hosts file and WireGuard is a value and no more.

Hostile words are put at every place of a document that takes text. Most documents are refused; of those that are
valid nothing may reach another program but plain tokens, whatever the schema and the readers let pass.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netctl.config import load_document, resolve
from netctl.config.load.pipeline import Loaded
from netctl.config.resolve.stockconfig import render as render_stock
from netctl.engine.filter.ruleset import render
from netctl.engine.hosts import parse_block, replace_block
from netctl.engine.wireguard.uapiclient import format_peer
from netctl.fleet.ansible import as_data
from netctl.fleet.inventory import from_document, split_host
from netctl.model.addresses import Endpoint, SocketAddress, is_host, parse_address, parse_prefix
from netctl.model.errors import ConfigError, LocalError
from netctl.wire.invite import Invite, pack_invite, parse_invite

KEYS = [f"{letter}" + "A" * 42 + "=" for letter in "ghij"]
PIN = "ed25519:" + KEYS[3]
BASE: dict[str, Any] = {
    "apiVersion": "netctl/v1",
    "id": "q7m2-x4ta",
    "mediators": [],
    "members": {
        "here": {"wireguard": KEYS[0], "host": "admin@here.example.net:22", "groups": ["admins"]},
        "there": {
            "wireguard": KEYS[1],
            "endpoints": ["192.0.2.2:51820", "there.example.net:1"],
            "routes": ["192.168.50.0/24"],
            "host": "there.example.net",
        },
    },
    "networks": {
        "office": {
            "mode": "routed",
            "ipv4": "10.8.0.0/24",
            "ipv6": "fd00:8::/64",
            "members": ["*", "group:admins", "there"],
            "addresses": {"here": "10.8.0.1", "there": ["10.8.0.2"]},
            "acls": [
                {
                    "name": "ssh",
                    "src": ["group:admins", "10.8.0.0/25"],
                    "dst": ["there"],
                    "proto": "tcp",
                    "ports": [22],
                },
                {
                    "name": "web",
                    "src": ["*"],
                    "dst": ["here", "fd00:8::1/128"],
                    "proto": "tcp",
                    "ports": ["80-81"],
                },
            ],
            "tests": [{"src": "here", "accept": ["there:tcp/22"]}],
        }
    },
}
MEDIATED = {
    **BASE,
    "mediators": [{"url": "netctl://m.example.net:8443", "identity": [PIN], "relayPorts": "40000-40999"}],
}
FRAGMENTS = (
    "{{ lookup('pipe', 'id') }}", "{% raw %}", "$(id)", "`id`", ";id", "|id", "&&id", "\n", "\r\n", "\x00", "\x1b[2J",
    "'", '"', "\\", " ", "\t", "#", "}", "{", "-oProxyCommand=id", "--upload-pack=id", "-", "ext::sh -c id", "%eth0",
    "%x\nprivate_key=", "[", "]", "@", ":", "/", ",", "*", "!", "&", "~", "all", "10.0.0.1", "/8", "::1", "nas", "a.b",
    ":22", "\u2028", "\u202e", "é", "0x", "PostUp = id",
)  # fmt: skip
PLAIN = re.compile(r"[A-Za-z0-9_.*/\[:][A-Za-z0-9_.:/%@*+=\[\]-]*")
"""A word that is one word, and no option, to all of these programs."""


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a document that has a text, and every name."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        if isinstance(key, str):
            yield (*path, key, None)
        if isinstance(value, str):
            yield (*path, key)
        yield from places(value, (*path, key))


PLACES = list(places(MEDIATED))


def put(tree: dict[str, Any], path: tuple[Any, ...], word: str) -> dict[str, Any]:
    """The document with a word at a place; a name is changed where the path ends in None."""
    whole = node = copy.deepcopy(tree)
    *way, last = path[:-1] if path[-1] is None else path
    try:
        for step in way:
            node = node[step]
        node[word if path[-1] is None else last] = node.pop(last) if path[-1] is None else word
    except (KeyError, IndexError, TypeError, AttributeError):
        pass
    return whole


def words_out(loaded: Loaded) -> Iterator[tuple[str, str]]:
    """Every word of a valid document that another program is given, and which."""
    document = loaded.document
    for member in document.members.values():
        yield from (("wireguard", str(endpoint)) for endpoint in member.endpoints)
    for mediator in document.mediators:
        yield "connect", mediator.host
    try:
        inventory = from_document(document).source
        assert not isinstance(inventory, str)
        for name, variables in inventory.items():
            yield "ansible", name
            yield from (("ansible", str(value)) for value in variables.values())
    except LocalError:
        pass
    for name in [name for name, member in document.members.items() if member.wireguard is not None]:
        try:
            state = resolve(document, name, None).state
        except LocalError:
            continue
        text = replace_block("127.0.0.1 localhost\n", state.names)
        assert parse_block(text) == {host: tuple(found) for host, found in state.names.items()}
        for line in text.splitlines():
            yield from (("hosts", word) for word in (line.split() if not line.startswith("#") else ()))
        yield from (
            ("nft", word) for word in leaves(render(state.filter) if state.filter is not None else {})
        )
        for peer in state.wireguard.peers.values() if state.wireguard is not None else ():
            lines = format_peer(peer).splitlines()
            assert all(line.count("=") >= 1 for line in lines)
            yield from (("uapi", line.partition("=")[2]) for line in lines)


def leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from itertools.chain.from_iterable(leaves(entry) for entry in value.values())
    elif isinstance(value, list):
        yield from itertools.chain.from_iterable(leaves(entry) for entry in value)
    elif isinstance(value, str):
        yield value


OURS = frozenset(
    word for base in (BASE, MEDIATED) for _, word in words_out(load_document(json.dumps(base), "f"))
)
"""What the plain document lets out: words of nft's own language among them."""
hostile = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=4).map("".join)
around = st.tuples(
    st.sampled_from(["", "nas", "admin@", "10.8.0.1", "[", "netctl://"]),
    hostile,
    st.sampled_from(["", ":22", "/24", "]:1"]),
)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    base=st.sampled_from([BASE, MEDIATED]),
    changes=st.lists(st.tuples(st.sampled_from(PLACES), around.map("".join)), min_size=1, max_size=2),
)
def test_what_a_valid_document_gives_to_other_programs_is_plain(
    base: dict[str, Any], changes: list[tuple[tuple[Any, ...], str]]
) -> None:
    tree = base
    for path, word in changes:
        tree = put(tree, path, word)
    try:
        loaded = load_document(json.dumps(tree), "networks.yaml")
    except ConfigError:
        return
    for program, word in words_out(loaded):
        assert word in OURS or (PLAIN.fullmatch(word) and not word.startswith("-")), (program, word)


HOSTS = [
    "{{ lookup('pipe', 'touch /tmp/x') }}", "{{x}}", "-oProxyCommand=touch /tmp/x", "admin@-oProxyCommand=x", "-x",
    "a b", "a;b", "a\nb", "a,b", "$(id)", "`id`", "a|b", "a'b", 'a"b', "{{ x }}@nas", "-l@nas", "nas:22:22", "nas:port",
    "nas:-1", "@nas", "nas@", "nas:", "[::1", "::1]", "[x]", "[fe80::1%a b]", "nas:222222", "a/b", "a\\b", "%h",
    "~root", "é.example", "", "a" * 256,
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_that_is_more_than_a_host_is_refused(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_document(json.dumps(put(BASE, ("members", "here", "host"), host)), "networks.yaml")
    assert "members.here.host" in str(caught.value)
    with pytest.raises(LocalError):
        split_host(host)


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("nas", ("nas", None, None)),
        ("admin@nas.example.net", ("nas.example.net", "admin", None)),
        ("admin@nas.example.net:2222", ("nas.example.net", "admin", 2222)),
        ("jane.doe@corp@10.0.0.1", ("10.0.0.1", "jane.doe@corp", None)),
        ("root@[2001:db8::1]:22", ("2001:db8::1", "root", 22)),
        ("2001:db8::1", ("2001:db8::1", None, None)),
        ("[fe80::1%eth0]", ("fe80::1%eth0", None, None)),
        ("my_host.", ("my_host.", None, None)),
    ],
)
def test_a_host_is_still_a_host(host: str, wanted: tuple[str, str | None, int | None]) -> None:
    load_document(json.dumps(put(BASE, ("members", "here", "host"), host)), "networks.yaml")
    said = split_host(host)
    assert (said["ansible_host"], said.get("ansible_user"), said.get("ansible_port")) == wanted


@pytest.mark.parametrize(
    ("path", "word"),
    [
        (("members", "there", "endpoints", 0), "nas\nprivate_key=00:1"),
        (("members", "there", "endpoints", 0), "[fe80::1%x\nreplace_peers=true]:1"),
        (("members", "there", "endpoints", 0), "[2001:db8::1%eth0]:1"),
        (("members", "there", "endpoints", 0), "-x:1"),
        (("members", "there", "endpoints", 0), "a b:1"),
        (("networks", "office", "acls", 0, "src", 1), "fe80::1%x };flush ruleset/128"),
        (("networks", "office", "acls", 0, "src", 1), "group:admins\n"),
        (("networks", "office", "acls", 0, "name"), "ssh\x1b[2J"),
        (("networks", "office", "acls", 0, "name"), "a\nb"),
        (("networks", "office", "acls", 0, "name"), "\u202essh"),
        (("mediators", 0, "url"), "netctl://-oProxyCommand:8443"),
        (("mediators", 0, "url"), "netctl://[.]:8443"),
        (("members", "here", None), "a\nb"),
        (("networks", "office", None), "10.0.0.1 evil.example"),
    ],
)
def test_words_that_would_act_are_refused(path: tuple[Any, ...], word: str) -> None:
    with pytest.raises(ConfigError):
        load_document(json.dumps(put(MEDIATED, path, word)), "networks.yaml")


SCOPED = [
    "fe80::1%x\nprivate_key=00",
    "fe80::1%a b",
    "2001:db8::1%eth0",
    "fe80::1%" + "a" * 16,
    "fe80::1%;",
    "::1%lo",
]


@pytest.mark.parametrize("text", SCOPED)
def test_the_interface_of_an_address_carries_no_word(text: str) -> None:
    """From a peer's offer or a mediator's view it would stand on a line of the engine's own protocol."""
    with pytest.raises(ValueError, match=r"interface|host"):
        SocketAddress.of(text, 1)
    with pytest.raises(ValueError, match=r"interface|host"):
        Endpoint.parse(f"[{text}]:1")
    with pytest.raises(ValueError, match="interface"):
        parse_address(text)
    with pytest.raises(ValueError, match="interface"):
        parse_prefix(f"{text}/128")
    assert not is_host(text)


def test_a_link_local_address_keeps_its_interface() -> None:
    assert str(SocketAddress.parse("[fe80::1%eth0.5]:51820")) == "[fe80::1%eth0.5]:51820"


@given(hostile)
def test_an_invite_names_a_host_or_is_refused(word: str) -> None:
    from netctl.model.document import Mediator
    from netctl.model.keys import IdentityKey

    try:
        text = pack_invite(Invite("home", bytes(16), (Mediator(word, 8443, (IdentityKey(bytes(32)),)),)))
        host = parse_invite(text).mediators[0].host
    except (LocalError, ValueError):
        return
    assert PLAIN.fullmatch(host)


@given(st.text(max_size=40))
def test_ansible_gets_every_text_as_data(word: str) -> None:
    text = as_data({"hosts": {"nas": {"ansible_host": word, "ansible_port": 22, "more": [word]}}})
    found: list[str] = []

    class Loader(yaml.SafeLoader):
        pass

    def unsafe(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
        found.append(node.value)
        return str(node.value)

    Loader.add_constructor("!unsafe", unsafe)
    plain = yaml.load(text, Loader=Loader)
    assert plain == {"hosts": {"nas": {"ansible_host": word, "ansible_port": 22, "more": [word]}}}
    assert found == [word, word]


@given(hostile)
def test_an_app_gets_no_line_of_somebody_elses(word: str) -> None:
    """Names in the configuration of a stock app are the document's, whose schema lets no line end in."""
    name = word if load_fails(word) is None else "phone"
    config = {
        "member": name, "networks": [name], "wireguard": KEYS[0], "addresses": ["10.8.0.9/24"], "mtu": 1420,
        "peers": [{"name": name, "wireguard": KEYS[1], "endpoint": "m.net:1", "allowed": [], "keepalive_s": 25}],
    }  # fmt: skip
    lines = render_stock(config, None).splitlines()
    assert all(re.match(r"$|#|\[|[A-Z][A-Za-z]+ = ", line) for line in lines)
    assert len(lines) == len(render_stock({**config, "member": "phone"}, None).splitlines())


def load_fails(name: str) -> ConfigError | None:
    """Why a document with a member of this name is refused; None when it is not."""
    try:
        load_document(json.dumps({**BASE, "members": {**BASE["members"], name: {"wireguard": KEYS[2]}}}), "f")
    except ConfigError as error:
        return error
    return None
