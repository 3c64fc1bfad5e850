"""Names of packet filters in the spelling that the walk uses. A name in no list is not understood."""

from __future__ import annotations

GOES_ON = frozenset(
    {
        *("LOG", "NFLOG", "ULOG", "TRACE", "AUDIT", "LED"),
        *("MARK", "CONNMARK", "SECMARK", "CONNSECMARK", "CLASSIFY", "DSCP", "TOS", "CT", "NOTRACK"),
        *("TCPMSS", "TCPOPTSTRIP", "TTL", "HL", "CHECKSUM", "SET", "RATEEST"),
    }
)
"""Targets of iptables after which a packet goes on to the next rule (iptables-extensions(8))."""
TCP_FLAGS = frozenset({"fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr"})
_PROTOCOLS = {
    "1": "icmp",
    "6": "tcp",
    "17": "udp",
    "58": "ipv6-icmp",
    "icmpv6": "ipv6-icmp",
    "icmp6": "ipv6-icmp",
}
_WORDS = {
    "ctstate": frozenset({"new", "established", "related", "invalid", "untracked"}),
    "ctstatus": frozenset({"dnat", "snat"}),
    "ctdirection": frozenset({"original", "reply"}),
    "pkttype": frozenset({"host", "unicast", "broadcast", "multicast", "other"}),
    "nfproto": frozenset({"ipv4", "ipv6"}),
    "daddrtype": frozenset(
        {
            "unspec",
            "unicast",
            "local",
            "broadcast",
            "anycast",
            "multicast",
            "blackhole",
            "unreachable",
            "prohibit",
        }
    ),
}
_WORDS["saddrtype"] = _WORDS["daddrtype"]
_SPELT = {"ip": "ipv4", "ip6": "ipv6"}
_ICMP = {"8": "echo-request", "128": "echo-request", "ping": "echo-request"}
"""Names of echo requests by number, of ICMP (RFC 792) and ICMPv6 (RFC 4443). Other types keep their names."""


def known(subject: str, word: object) -> str | None:
    """A name in the walk's spelling; None: not understood."""
    text = str(word)
    if subject in ("iifname", "oifname"):
        return text if isinstance(word, str) and text else None
    if subject == "icmptype":
        return _ICMP.get(text, text)
    text = _SPELT.get(text, text) if subject == "nfproto" else text.lower()
    return text if text in _WORDS.get(subject, ()) else None


def protocol(word: object) -> str:
    """The name of an IP protocol by name or number."""
    text = str(word).lower()
    return _PROTOCOLS.get(text, text)


def number_of(value: object) -> int | None:
    """A port number; None for a name, which is not looked up because it may differ by host."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if 0 <= value <= 0xFFFF else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 5:
        return number_of(int(value))
    return None
