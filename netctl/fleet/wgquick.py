"""Strict reader of wg-quick files: every line is understood, listed as not imported, or wrong (wg-quick(8), wg(8))."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from netctl.model.addresses import Endpoint, Prefix
from netctl.model.errors import ConfigError, Finding, Mark
from netctl.model.keys import WireGuardKey

MAX_BYTES = 4 * 2**20
"""A file with 20,000 peers is about 3 MB."""
NOT_CARRIED = {
    "dns": "netctl sets no resolver; its names are in the hosts file",
    "table": "netctl keeps its routes in the main table",
    "preup": "netctl runs no hooks",
    "postup": "netctl runs no hooks",
    "predown": "netctl runs no hooks",
    "postdown": "netctl runs no hooks",
    "saveconfig": "the document is never written by the host",
    "fwmark": "netctl marks no packets of its own",
}
"""Keys of [Interface] that a document cannot express, and why."""
KEEPALIVE_WHY = "netctl keeps every tunnel alive at 25 s"
PSK_WHY = "no secret belongs into the document; the tunnel comes up without one once both ends run netctl"
_LISTED = frozenset({"address", "allowedips", "dns"})


@dataclass(frozen=True, slots=True)
class Omission:
    """A setting of the file that the document will not contain."""

    mark: Mark
    what: str
    why: str


@dataclass(slots=True)
class QuickPeer:
    """One [Peer] section."""

    mark: Mark
    key: WireGuardKey | None = None
    allowed: list[Prefix] = field(default_factory=list)
    endpoint: Endpoint | None = None
    called: str = ""
    """The comment inside or directly above the section, often the peer's name."""


@dataclass(slots=True)
class QuickFile:
    """The content of one wg-quick file, without the private key."""

    file: str
    host: str
    """The name of the host that the file belongs to."""
    link: str
    mark: Mark
    key: WireGuardKey | None = None
    """The public key; None: the file has no PrivateKey (a hook sets it)."""
    addresses: list[IPv4Interface | IPv6Interface] = field(default_factory=list)
    listen_port: int | None = None
    mtu: int | None = None
    peers: list[QuickPeer] = field(default_factory=list)
    omitted: list[Omission] = field(default_factory=list)


class _Reader:
    def __init__(self, text: str, file: str, host: str, link: str) -> None:
        self.result = QuickFile(file, host, link, Mark(file, 1, 1))
        self.text, self.file = text, file
        self.findings: list[Finding] = []
        self.peer: QuickPeer | None = None
        self.section = ""
        self.seen: set[str] = set()
        self.comment = ""

    def wrong(self, line: int, what: str, message: str, hint: str = "") -> None:
        self.findings.append(Finding("NC701", what, message, Mark(self.file, line, 1), hint))

    def read(self) -> QuickFile:
        interfaces = 0
        for number, raw in enumerate(self.text.removeprefix("\ufeff").splitlines(), 1):
            words, sign, comment = raw.partition("#")
            words = words.strip()
            if not words:
                self.comment = comment.strip() if sign else ""
                continue
            if words.startswith("["):
                interfaces += words.lower() == "[interface]"
                self.begin(words, number, interfaces)
                if sign and self.peer is not None:
                    self.peer.called = comment.strip()
            elif not self.section:
                self.wrong(number, words[:40], "a file begins with [Interface]")
            else:
                self.entry(words, number)
        if not interfaces:
            self.wrong(1, "[Interface]", "there is no [Interface]: is this a wg-quick file?")
        for peer in self.result.peers:
            if peer.key is None and not self.findings:
                self.wrong(peer.mark.line, "[Peer]", "this peer has no PublicKey")
        if interfaces and not self.result.addresses and not self.findings:
            self.wrong(self.result.mark.line, "[Interface]", "there is no Address")
        if self.findings:
            raise ConfigError(tuple(self.findings))
        return self.result

    def begin(self, words: str, line: int, interfaces: int) -> None:
        self.section, self.seen, self.peer = words.lower(), set(), None
        if self.section == "[peer]":
            self.peer = QuickPeer(Mark(self.file, line, 1), called=self.comment)
            self.result.peers.append(self.peer)
        elif self.section == "[interface]":
            self.result.mark = Mark(self.file, line, 1)
            if interfaces > 1:
                self.wrong(line, words, "a second [Interface]; a file has one")
        else:
            self.wrong(line, words[:40], "unknown section; allowed: [Interface], [Peer]")
        self.comment = ""

    def entry(self, words: str, line: int) -> None:
        name, sign, value = (part.strip() for part in words.partition("="))
        what = f"{self.section}.{name}"
        if not sign or not name:
            self.wrong(line, words[:40] if "key" not in words.lower() else "(line)", "expected KEY = VALUE")
            return
        key = name.lower()
        if key in self.seen and key not in _LISTED and key not in NOT_CARRIED:
            self.wrong(line, what, "said twice in this section")
            return
        self.seen.add(key)
        try:
            known = self.of_peer(key, value, line) if self.peer else self.of_interface(key, value, line)
        except ValueError as error:
            self.wrong(line, what, str(error))
            return
        if not known:
            self.wrong(line, what, "unknown key")

    def omit(self, line: int, what: str, why: str) -> None:
        self.result.omitted.append(Omission(Mark(self.file, line, 1), what, why))

    def of_interface(self, key: str, value: str, line: int) -> bool:
        result = self.result
        match key:
            case "privatekey":
                raw = _raw_key(value, "PrivateKey")
                public = X25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw()
                result.key = WireGuardKey(public)
            case "address":
                result.addresses += [ipaddress.ip_interface(part) for part in _parts(value)]
            case "listenport":
                result.listen_port = _number(value, 1, 65535)
            case "mtu":
                result.mtu = _number(value, 576, 65440)
            case _ if key in NOT_CARRIED:
                self.omit(line, key, NOT_CARRIED[key])
            case _:
                return False
        return True

    def of_peer(self, key: str, value: str, line: int) -> bool:
        peer = self.peer
        assert peer is not None
        match key:
            case "publickey":
                peer.key = WireGuardKey(_raw_key(value, "PublicKey"))
            case "allowedips":
                peer.allowed += [ipaddress.ip_network(part, strict=False) for part in _parts(value)]
            case "endpoint":
                peer.endpoint = Endpoint.parse(value)
            case "persistentkeepalive":
                if value.lower() != "off" and _number(value, 0, 65535) not in (0, 25):
                    self.omit(line, "persistentkeepalive", KEEPALIVE_WHY)
            case "presharedkey":
                _raw_key(value, "PresharedKey")
                self.omit(line, "presharedkey", PSK_WHY)
            case _:
                return False
        return True


def _parts(value: str) -> list[str]:
    parts = [part.strip() for part in value.split(",")]
    return [part for part in parts if part]


def _number(value: str, low: int, high: int) -> int:
    number = int(value, 0) if re.fullmatch(r"0x[0-9a-fA-F]+|[0-9]{1,9}", value) else -1
    if not low <= number <= high:
        raise ValueError(f"must be a number from {low} to {high}")
    return number


def _raw_key(value: str, name: str) -> bytes:
    """32 bytes from base64. Raises an error without the value, which may be a secret."""
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32:
        raise ValueError(f"a {name} is 32 bytes in base64 (44 characters)")
    return raw


def read_wgquick(text: str, file: str, host: str, link: str) -> QuickFile:
    """Read one file. Raises ConfigError with every wrong line; no message repeats a key."""
    if len(text) > MAX_BYTES:
        message = f"larger than {MAX_BYTES // 2**20} MiB: this is no wg-quick file"
        raise ConfigError((Finding("NC701", "(file)", message, Mark(file, 1, 1)),))
    return _Reader(text, file, host, link).read()
