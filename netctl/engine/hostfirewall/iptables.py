"""Parses the output of `iptables-save` to tables: nft lists rules of iptables with expressions that it cannot name.

One line is one rule (iptables(8), iptables-extensions(8)). A rule with an unknown option may match or not; a rule with
an unknown target may do anything.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from netctl.engine.hostfirewall.vocabulary import GOES_ON, TCP_FLAGS, known, number_of, protocol
from netctl.model.packetfilter import NOT_UNDERSTOOD, Action, Chain, Match, Rule, Table, Value

_UNKNOWN = Match(NOT_UNDERSTOOD)
_TARGETS: Mapping[str, Action] = {
    "ACCEPT": "accept",
    "DROP": "drop",
    "REJECT": "reject",
    "RETURN": "return",
}
LEGACY_PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
"""Priorities of the hooks of legacy iptables (linux/netfilter_ipv4.h)."""
LEGACY_HOOKS = {"INPUT": "input", "FORWARD": "forward"}


def tables(text: str, family: str) -> Iterator[Table]:
    """The tables of `iptables-save` or `ip6tables-save`; `family`: ip or ip6."""
    name, chains, rules = "", dict[str, Chain](), dict[str, list[Rule]]()
    for line in text.splitlines():
        if line.startswith("*"):
            name, chains, rules = line[1:].strip(), {}, {}
        elif line.startswith(":") and len(words := line[1:].split()) > 1:
            policy = "drop" if words[1] == "DROP" else "accept"
            chains[words[0]] = Chain(words[0], policy=policy)  # type: ignore[arg-type]
        elif line.startswith("-A "):
            chain, rule = _rule(line, family, chains)
            rules.setdefault(chain, []).append(rule)
        elif line.strip() == "COMMIT" and name:
            filled = {one.name: replace(one, rules=tuple(rules.get(one.name, ()))) for one in chains.values()}
            yield Table(family, name, filled, is_iptables=True)


def legacy(text: str, family: str) -> Iterator[Table]:
    """The tables of legacy iptables, whose chains nft does not list, with their hooks."""
    for table in tables(text, family):
        if table.name in LEGACY_PRIORITIES:
            chains = {
                name: replace(chain, hook=LEGACY_HOOKS.get(name, ""), priority=LEGACY_PRIORITIES[table.name])
                for name, chain in table.chains.items()
            }
            yield replace(table, chains=chains, is_legacy=True)


def named(table: Table, saved: Table) -> Table:
    """A table that nft lists, with its rules replaced by those of iptables.

    Handles stay. A chain with another number of rules has changed meanwhile, and stays as nft lists it.
    """
    chains = {}
    for name, chain in table.chains.items():
        other = saved.chains.get(name)
        if other is not None and len(other.rules) == len(chain.rules):
            pairs = zip(chain.rules, other.rules, strict=True)
            chain = replace(chain, rules=tuple(replace(b, handle=a.handle) for a, b in pairs))
        chains[name] = chain
    return replace(table, chains=chains)


def _rule(line: str, family: str, chains: Mapping[str, Chain]) -> tuple[str, Rule]:
    try:
        words = shlex.split(line)
    except ValueError:
        words = []
    if len(words) < 2:
        return "", Rule((), "unknown", text=line)
    matches: list[Match] = []
    comment, action, target = "", "continue", ""
    at, negated = 2, False
    while at < len(words):
        option = words[at]
        at += 1
        if option == "!":
            negated = True
            continue
        if option in ("-j", "--jump", "-g", "--goto") and at < len(words):
            action, target = _action(words[at], option in ("-g", "--goto"), chains)
            break  # the rest belongs to the target
        if option in ("-m", "--match") and at < len(words):
            at += 1
        elif option == "--comment" and at < len(words):
            comment = words[at]
            at += 1
        elif option in _FLAGS:
            matches.append(replace(_FLAGS[option], negated=negated))
        elif option == "--rt-type" and at < len(words):
            matches.append(Match("extension", (), negated))
            at += 1
        elif option == "--tcp-flags" and at + 1 < len(words):
            matches.append(_flags(words[at], words[at + 1], negated))
            at += 2
        elif option in _OPTIONS and at < len(words):
            subject, read = _OPTIONS[option]
            values = read(words[at], family)
            matches.append(_UNKNOWN if values is None else Match(subject, values, negated))
            at += 1
        else:
            matches.append(_UNKNOWN)
            later = [number for number in range(at, len(words)) if words[number] in ("-j", "-g")]
            at = later[-1] if later else len(words)
        negated = False
    rule = Rule(tuple(matches), action, target, text=line, comment=comment)  # type: ignore[arg-type]
    return words[1], rule


def _action(name: str, goes: bool, chains: Mapping[str, Chain]) -> tuple[Action, str]:
    if name in chains:
        return ("goto" if goes else "jump"), name
    if name in GOES_ON:
        return "continue", ""
    return _TARGETS.get(name, "unknown"), ""


Values = tuple[Value, ...] | None
"""None: not understood."""


def _address(text: str, family: str) -> Values:
    try:
        return (ipaddress.ip_network(text, strict=False),)
    except ValueError:
        return None


def _words(subject: str) -> Callable[[str, str], Values]:
    def read(text: str, family: str) -> Values:
        found = [known(subject, word) for word in text.lower().split(",")]
        return None if None in found else tuple(one for one in found if one is not None)

    return read


def _state(text: str, family: str) -> Values:
    """States; the words for NAT are left out, since a flow without NAT never has them."""
    words = [word for word in text.lower().split(",") if word not in ("snat", "dnat")]
    return _words("ctstate")(",".join(words), family) if words else ()


def _link(text: str, family: str) -> Values:
    return (text[:-1] + "*" if text.endswith("+") else text,)


def _protocol(text: str, family: str) -> Values:
    return None if text in ("all", "0") else (protocol(text),)


def _ports(text: str, family: str) -> Values:
    found: list[Value] = []
    for part in text.split(","):
        first, colon, last = part.partition(":")
        low, high = number_of(first or "0"), number_of((last or "65535") if colon else first)
        if low is None or high is None:
            return None
        found.append((low, high))
    return tuple(found)


def _icmp(text: str, family: str) -> Values:
    if text == "any":
        return None
    return (known("icmptype", text.partition("/")[0]) or text,)


def _flags(looked: str, wanted: str, negated: bool) -> Match:
    def names(text: str) -> frozenset[str]:
        return TCP_FLAGS - {"ecn", "cwr"} if text == "ALL" else frozenset(text.lower().split(",")) - {"none"}

    if not (names(looked) | names(wanted)) <= TCP_FLAGS:
        return _UNKNOWN
    return Match("tcpflags", (",".join(sorted(names(looked))), ",".join(sorted(names(wanted)))), negated)


_OPTIONS: Mapping[str, tuple[str, Callable[[str, str], Values]]] = {
    "-s": ("saddr", _address),
    "-d": ("daddr", _address),
    "-i": ("iifname", _link),
    "-o": ("oifname", _link),
    "-p": ("l4proto", _protocol),
    "--dport": ("dport", _ports),
    "--dports": ("dport", _ports),
    "--sport": ("sport", _ports),
    "--sports": ("sport", _ports),
    "--ctstate": ("ctstate", _state),
    "--state": ("ctstate", _state),
    "--ctstatus": ("ctstatus", _words("ctstatus")),
    "--ctdir": ("ctdirection", _words("ctdirection")),
    "--pkt-type": ("pkttype", _words("pkttype")),
    "--dst-type": ("daddrtype", _words("daddrtype")),
    "--src-type": ("saddrtype", _words("saddrtype")),
    "--icmp-type": ("icmptype", _icmp),
    "--icmpv6-type": ("icmptype", _icmp),
}
_FLAGS: Mapping[str, Match] = {
    "--syn": Match("tcpflags", ("ack,fin,rst,syn", "syn")),
    "-f": Match("extension"),
}
