"""What netctl can open in a host's firewall: by which manager and command, and how it recognises its own rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from netctl.model.hoststate import Opening
from netctl.model.packetfilter import Chain, Match, PacketFilter, Place, Rule, Table
from netctl.node.firewall.questions import Question
from netctl.node.firewall.walk import Skips

MARK = "netctl"
"""The comment on our rules in other programs' chains, and the name of our policy in firewalld."""
DOCKER_USER = "DOCKER-USER"
"""The chain that Docker keeps for other programs' rules; it comes before Docker's own chains."""
UFW_CHAINS = {"input": "before-input", "forward": "before-forward"}
NAMES = {
    "ufw": "your ufw",
    "firewalld": "your firewalld",
    "docker": "Docker's FORWARD chain",
    "iptables": "this host's iptables",
    "nft": "this host's nftables",
}


def manager_of(place: Place) -> str:
    """The program that manages the rule or policy at which a packet ends: a key of NAMES."""
    table = place.table
    if table.name == "firewalld":
        return "firewalld"
    if not table.is_iptables:
        return "nft"
    if place.base == "FORWARD" and DOCKER_USER in table.chains:
        return "docker"
    before = UFW_CHAINS["forward" if place.base == "FORWARD" else "input"]
    has_ufw = not {f"ufw-{before}", f"ufw6-{before}"}.isdisjoint(table.chains)
    by_ufw = place.chain.startswith("ufw") or (place.rule is None and has_ufw)
    return "ufw" if by_ufw else "iptables"


def openings_at(question: Question, place: Place) -> tuple[Opening, ...]:
    """The opening that lets this packet pass where it is dropped now."""
    packet, manager = question.packet, manager_of(place)
    if question.ports is not None:
        first, last = question.ports
        made = Opening("ufw", packet.hook, port=first, last=last if last > first else 0)
    else:
        made = Opening("ufw", packet.hook, packet.iif, packet.oif)
    if manager == "ufw":
        return (made,)
    if manager == "firewalld":
        return tuple(_zones(made))
    chain = DOCKER_USER if manager == "docker" else place.base
    where = f"{place.table.family} {place.table.name} {chain}"
    return (replace(made, manager="nft" if manager == "nft" else "iptables", place=where),)


def _zones(made: Opening) -> Iterator[Opening]:
    """firewalld: our link belongs to the zone `trusted`; packets between zones need a policy too."""
    hook, iif, oif = made.hook, made.iif, made.oif
    if made.port:
        yield replace(made, manager="firewalld", hook="input")
        return
    into = hook == "forward" and oif.startswith("nctl")
    yield Opening("firewalld", "input", oif if into else iif)
    if into and iif != oif:
        yield Opening("firewalld", "forward", iif, oif)


def command(opening: Opening, *, is_legacy: bool = False) -> str:
    """The command that a person types for it."""
    iif, oif, port = opening.iif, opening.oif, opening.port
    match opening.manager:
        case "ufw":
            if port:
                return f"ufw allow {opening.ports(':')}/udp"
            return f"ufw route allow in on {iif} out on {oif}" if oif else f"ufw allow in on {iif}"
        case "firewalld":
            if port:
                return _twice(f"--add-port={opening.ports('-')}/udp")
            if not oif:
                return _twice(f"--zone=trusted --add-interface={iif}")
            policy = f"firewall-cmd --permanent --policy={MARK}"
            return (
                f"firewall-cmd --permanent --new-policy={MARK} && {policy} --add-ingress-zone=ANY && "
                f"{policy} --add-egress-zone=trusted && {policy} --set-target=ACCEPT && firewall-cmd --reload"
            )
        case "iptables":
            family, table, chain = opening.place.split()
            program = ("iptables" if family == "ip" else "ip6tables") + ("-legacy" if is_legacy else "")
            by_link = f"-i {iif}" + (f" -o {oif}" if oif else "")
            which = "" if table == "filter" else f"-t {table} "
            what = f"-p udp --dport {opening.ports(':')}" if port else by_link
            return f"{program} {which}-I {chain} {what} -j ACCEPT"
        case "nft":
            named = f'iifname "{iif}"' + (f' oifname "{oif}"' if oif else "")
            what = f"udp dport {opening.ports('-')}" if port else named
            return f"nft insert rule {opening.place} {what} accept"


def _twice(what: str) -> str:
    """firewalld keeps its run-time and its permanent rules apart; a reload drops what is only at run time."""
    return f"firewall-cmd {what} && firewall-cmd --permanent {what}"


def is_rule_of(opening: Opening, table: Table, chain: Chain, rule: Rule) -> bool:
    """Whether this rule of the host is the one that this opening makes."""
    if opening.manager in ("nft", "iptables"):
        at = f"{table.family} {table.name} {chain.name}"
        return rule.comment == MARK and at == opening.place and _same(opening, rule.matches)
    if rule.action not in ("accept", "goto", "jump"):
        return False
    if opening.manager == "ufw":
        where = "forward" if opening.oif else "input"
        return chain.name in (f"ufw-user-{where}", f"ufw6-user-{where}") and _same(opening, rule.matches)
    if table.name != "firewalld":
        return False
    if opening.port:
        return chain.name.endswith("_allow") and rule.action == "accept" and _same(opening, rule.matches)
    if opening.oif:
        return rule.target.endswith(f"_policy_{MARK}")
    # firewalld 1 jumps to the zone's chain, which accepts at its end; firewalld 2 returns and accepts after the jump.
    into = rule.target.endswith("_trusted") if rule.target else rule.action == "accept"
    by_link = {match for match in rule.matches if match.subject != "oifname"}
    return into and by_link == {Match("iifname", (opening.iif,))}


def _same(opening: Opening, matches: Iterable[Match]) -> bool:
    """Whether a rule matches exactly what an opening opens."""
    if opening.port:
        wanted = {Match("l4proto", ("udp",)), Match("dport", (opening.span,))}
    else:
        wanted = {Match("iifname", (opening.iif,))}
        wanted |= {Match("oifname", (opening.oif,))} if opening.oif else set()
    return set(matches) == wanted


def ours(openings: Iterable[Opening]) -> Skips:
    """The rules that netctl has made."""
    listed = tuple(openings)

    def skips(table: Table, chain: Chain, rule: Rule) -> bool:
        return any(is_rule_of(one, table, chain, rule) for one in listed)

    return skips


def stands(opening: Opening, found: PacketFilter) -> bool:
    """Whether the rules of an opening are in the host's firewall, for each address family that it is for."""
    places = [
        table.family
        for table in found.tables
        for chain in table.chains.values()
        for rule in chain.rules
        if is_rule_of(opening, table, chain, rule)
    ]
    if opening.manager == "ufw":
        wanted = {
            table.family
            for table in found.tables
            for name in table.chains
            if name in ("ufw-user-input", "ufw6-user-input")
        }
        return bool(wanted) and wanted <= set(places)
    return bool(places)
