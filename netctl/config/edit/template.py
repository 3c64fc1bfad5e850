"""The first `networks.yaml` of an installation: small, valid, and with comments for the next edits."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from netctl.model.addresses import Prefix
from netctl.model.errors import LocalError

POOL_PREFIX = 24
"""The length of the pool's prefix in bits: 254 hosts, as people expect of a LAN."""
TRIES = 64
"""Random pools tried; on a host with routes to most of 10.0.0.0/8, the user must choose a pool."""
ID_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"
"""Letters and digits without those that are mistaken for another when read aloud or copied by hand."""

_TEXT = """# The networks of this installation: the same file on every host and on the mediator.
# `netctl validate` checks it, `netctl plan` says what would change, `netctl apply` does it.
# `netctl explain networks.{network}` says what else may be written.
apiVersion: netctl/v1
id: {id}                # never change it: IPv6 addresses are made from it
{mediators}
{members}
networks:
  {network}:
    mode: {mode}             {mode_note}
    ipv4: {pool}
    members: ["*"]        # everybody above; or names, or groups: ["group:gamers", nas]
{addresses}    # With `acls` only what a rule names gets through; without, everything between members:
    # acls:
    #   - {{name: ping, src: ["*"], dst: ["*"], proto: icmp}}
    #   - {{name: web, src: ["*"], dst: [{example}], proto: tcp, ports: [80, 443]}}
{invites}"""
_MEMBERS = """\
# One line a host. `netctl keys init` prints it there; the private halves of its keys never leave the host.
"""
_INVITES = """    # With this, `netctl invite {network}` prints a string by which machines come in without this file:
    {hidden}join: {{invites: true}}
"""
_MODE_NOTES = {
    "lan": "# one Ethernet segment, with broadcast and multicast; `routed` is IP alone, for many hosts",
    "routed": "# IP alone, for many hosts; `lan` is one Ethernet segment, with broadcast and multicast",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A mediator as `netctl-mediator init` prints it."""

    url: str
    identity: str
    tls: tuple[int, ...] = ()
    """Further TCP ports that the mediator listens on."""

    @classmethod
    def parse(cls, text: str) -> Server:
        """``netctl://HOST:PORT[?tls=PORT,…]#ed25519:…``. Raises LocalError."""
        address, separator, identity = text.partition("#")
        url, _, ports = address.partition("?tls=")
        if not separator or not url or not identity:
            raise LocalError(
                f"{text!r} is no mediator: it is URL#IDENTITY, as `netctl-mediator init` prints it, "
                "netctl://vps.example.org:8443#ed25519:…"
            )
        try:
            return cls(url, identity, tuple(int(port) for port in ports.split(",") if port))
        except ValueError:
            raise LocalError(
                f"{text!r}: the ports after ?tls= are numbers, with commas between them"
            ) from None


def installation_id(numbers: Iterable[int]) -> str:
    """Eight letters chosen by random numbers, 40 bits: enough that two installations never have the same id."""
    letters = "".join(ID_LETTERS[number % len(ID_LETTERS)] for number in numbers)
    return f"{letters[:4]}-{letters[4:8]}"


def free_pool(numbers: Sequence[int], taken: Iterable[Prefix]) -> IPv4Network:
    """A /24 of 10.0.0.0/8, chosen by random numbers, that overlaps none of `taken` except default routes.

    Raises LocalError when none of the first `TRIES` pools is free.
    """
    others = [prefix for prefix in taken if isinstance(prefix, IPv4Network) and prefix.prefixlen > 1]
    for number in numbers[:TRIES]:
        # Not 10.0 and 10.1, which home routers use.
        second, third = 2 + number % 254, (number >> 8) % 256
        pool = IPv4Network(((10 << 24) + (second << 16) + (third << 8), POOL_PREFIX))
        if not any(pool.overlaps(other) for other in others):
            return pool
    raise LocalError("this host has routes to most of 10.0.0.0/8: name a free pool with --ipv4")


@dataclass(frozen=True, slots=True)
class Host:
    """The first member: its name and the public halves of its keys."""

    name: str
    wireguard: str
    identity: str
    endpoints: Sequence[str] = ()
    """Endpoints at which others reach the host from outside."""


def first_document(
    *,
    host: Host | None,
    installation: str,
    network: str,
    mode: str,
    pool: Prefix,
    servers: Sequence[Server],
) -> str:
    """The text of the document. The names are not checked here: `load_document` does that.

    Without `host` (on a mediator's machine that is no member) the document has no members yet and permits invites.
    """
    if servers:
        lines = ["", "mediators:"]
        for server in servers:
            lines += [f"  - url: {server.url}", f'    identity: ["{server.identity}"]']
            if server.tls:
                lines.append(f"    tls: [{', '.join(map(str, server.tls))}]")
        addresses = ""
    else:
        lines = [
            "",
            "# No mediator: every member needs a fixed address, and those that others call an endpoint. With one,",
            "# hosts behind NATs find each other and addresses are leased: `netctl-mediator init` on a server.",
            '# An endpoint is where the others reach a host: {…, endpoints: ["nas.example.org:51820"]}',
            "mediators: []",
        ]
        first = next(iter(ipaddress.ip_network(str(pool)).hosts()))
        addresses = f"    addresses: {{{host.name}: {first}}}\n" if host is not None else ""
    members = f"{_MEMBERS}members: {{}}\n"
    if host is not None:
        said = ", ".join(f'"{endpoint}"' for endpoint in host.endpoints)
        more = f", endpoints: [{said}]" if host.endpoints else ""
        keys = f'wireguard: "{host.wireguard}", identity: "{host.identity}"'
        members = f"members:\n  {_MEMBERS}  {host.name}: {{{keys}{more}}}\n"
    return _TEXT.format(
        network=network,
        id=installation,
        mediators="\n".join(lines) + "\n",
        members=members,
        example=host.name if host is not None else "nas",
        mode=mode,
        mode_note=_MODE_NOTES[mode],
        pool=pool,
        addresses=addresses,
        invites=_INVITES.format(network=network, hidden="# " if host is not None else "") if servers else "",
    )
