"""The checks of `netctl doctor` for one host: the control connection, UDP, the NAT, and the path to each peer."""

from __future__ import annotations

from typing import Any, Literal

from netctl.model.forpeople import counted
from netctl.node.diagnosis import nat, peers, udp
from netctl.node.diagnosis.mtu import narrow
from netctl.node.diagnosis.ports import port_mapping, port_mapping_json
from netctl.node.sharing import ADVICE, shared_key
from netctl.node.snapshot import OwnRelayStatus, Snapshot
from netctl.node.status import status_of, trouble_of_port, unheld_ports
from netctl.paths.behaviour import DEPENDENT, Behaviour
from netctl.paths.filtering import Filtering4787

Level = Literal["ok", "note", "problem"]
CLOCK_NOTICE_S = 300.0
"""A clock that is less behind is not worth a word: a relay works with an hour."""
HARD = "open hosts reach it directly; others by guessing ports, which may fail"
MAPPINGS = {
    "none": "no NAT: the mediator sees this host's own address",
    "endpoint-independent": "a NAT with endpoint-independent mapping: others can punch through it",
    "address-dependent": "a NAT with address-dependent mapping (symmetric): " + HARD,
    "address and port-dependent": "a NAT with address and port-dependent mapping (symmetric): " + HARD,
    "unknown": "mapping unknown: too few of the mediator's STUN ports have answered",
}


TAKEN_AWAY = "docs/coexistence.md names settings of firewalls, networkd and NetworkManager that prevent this"


def _check(level: Level, name: str, text: str, advice: str | None = None) -> dict[str, Any]:
    return {"level": level, "check": name, "text": text, "advice": advice}


def _family(name: str, seen: Behaviour) -> list[dict[str, Any]]:
    if seen.udp == "not asked":
        return []
    if seen.udp == "blocked":
        advice = "let UDP out to the mediator's STUN and relay ports"
        if name == "IPv6":
            return [_check("note", f"udp {name}", f"{name}: no answer over UDP", None)]
        return [_check("problem", f"udp {name}", f"{name}: UDP is blocked: no STUN port answers", advice)]
    outside = ", ".join(str(address) for address in seen.mapped)
    found = [_check("ok", f"udp {name}", f"{name}: UDP works, seen from outside as {outside}")]
    symmetric = seen.mapping in DEPENDENT
    level: Level = "note" if symmetric or seen.mapping == "unknown" else "ok"
    forward = (
        "forward a UDP port to this host and name it in `endpoints:` to be reached directly by everybody"
    )
    text = f"{name}: {MAPPINGS[seen.mapping]}"
    found.append(_check(level, f"mapping {name}", text, forward if symmetric else None))
    if seen.mapping == "endpoint-independent" and not seen.address_dependence_known:
        text = f"{name}: address dependence unknown: all STUN servers have one address"
        tells = "`netctl-mediator serve --stun-also ADDRESS` or a second mediator would tell"
        found.append(_check("note", f"address dependence {name}", text, tells))
    if seen.port_kept is not None:
        kept = "keeps" if seen.port_kept else "changes"
        found.append(_check("ok", f"port {name}", f"{name}: the NAT {kept} the port"))
    return found


def _ipv4(seen: Behaviour, snapshot: Snapshot) -> list[dict[str, Any]]:
    """The IPv4 NAT as this port sees it; unknown if another host uses the same port, which spoils the measurement."""
    trouble = trouble_of_port(snapshot)
    if trouble is None:
        found = _family("IPv4", seen)
    else:
        found = [one for one in _family("IPv4", seen) if one["check"] == "udp IPv4" and seen.udp == "works"]
        found.append(_check("problem" if snapshot.port.verdict == "dead" else "note", "port IPv4", *trouble))
    if snapshot.state.port_turn:
        text = f"this host uses UDP port {snapshot.port.port}: the usual one was not fit here"
        found.append(_check("note", "port", text))
    return found


def _own_relay(relay: OwnRelayStatus) -> list[dict[str, Any]]:
    """The relay that this member is."""
    if relay.state == "off":
        return []
    if relay.state == "starting":
        return [_check("note", "relay", "this member's relay starts")]
    if relay.error is not None:
        text = f"this member does not relay for others: {relay.error}"
        return [
            _check(
                "problem",
                "relay",
                text,
                "mend that, or take `relay` off this member; it is tried again by itself",
            )
        ]
    bindings, passed = counted(relay.bindings, "binding"), counted(relay.forwarded_bytes, "byte")
    text = f"this member relays for its networks: {bindings}, {passed} passed on"
    found = [_check("ok", "relay", text)]
    if (unheld := unheld_ports(relay)) is not None:
        advice = "reserve the relay's ports with net.ipv4.ip_local_reserved_ports; they are tried again by themselves"
        found.append(_check("problem", "relay ports", unheld, advice))
    if relay.clock_behind_s > CLOCK_NOTICE_S:
        behind = f"this host's clock is at least {relay.clock_behind_s / 60:.0f} minutes behind a mediator's"
        found.append(
            _check("problem", "clock", behind, "set the clock that is wrong: grants for relays have an end")
        )
    return found


def examine(snapshot: Snapshot) -> dict[str, Any]:
    """Checks for people (level, check, text, advice), and the NAT's behaviour for programs."""
    four, six, hairpin = snapshot.nat
    link = snapshot.link
    checks = []
    if link.state == "connected":
        checks.append(_check("ok", "mediator", "the mediator is connected"))
    elif link.state != "none":
        advice = "tunnels that stand stay up; new paths and members wait for it"
        checks.append(
            _check("problem", "mediator", f"the mediator is {link.state}: {link.error or '-'}", advice)
        )
    else:
        checks.append(_check("note", "mediator", "the document names no mediator: fixed endpoints alone"))
    if (shared := shared_key(link, snapshot.sharing, snapshot.now_s)) is not None:
        checks.append(_check("problem", "key", shared, ADVICE))
    if snapshot.nat64:
        text = f"no IPv4 in this network: it is reached by NAT64 behind {', '.join(snapshot.nat64)}"
        checks.append(_check("ok", "nat64", text))
    checks += _ipv4(four, snapshot) + _family("IPv6", six)
    filtering = snapshot.filtering
    if four.udp == "works":
        checks += nat.filtering(filtering) + nat.allocation(snapshot.allocation)
    checks += udp.checks(snapshot.relay_tls, blocked=snapshot.udp_blocked)
    checks += _own_relay(snapshot.own_relay)
    if hairpin is not None:
        text = f"the NAT {'sends back' if hairpin else 'does not send back'} what goes to its own outside (hairpin)"
        checks.append(_check("ok", "hairpin", text))
    checks += port_mapping(snapshot.port_mapping, four)
    checks += peers.checks(status_of(snapshot))
    if (found := narrow(snapshot)) is not None:
        checks.append(_check("note", "mtu", *found))
    checks += [
        _check("problem", "condition", f"{one.peer}: {one.message}") for one in snapshot.state.conditions
    ]
    if snapshot.not_back is not None:
        text = f"going back from what nobody confirmed: {snapshot.not_back}"
        checks.append(_check("problem", "condition", text, "mend that; it is tried again by itself"))
    if snapshot.unmet is not None:
        text = f"this host could not be brought to its document: {snapshot.unmet}"
        checks.append(_check("problem", "condition", text, "mend that; it is tried again by itself"))
    checks += [_check("problem", "condition", trouble) for trouble in snapshot.undone]
    checks += [_check("note", "taken away", said, TAKEN_AWAY) for said in snapshot.taken_away]
    checks += [
        _check("problem", "firewall", one.text, f"{one.advice}, or `firewall: manage` on this member")
        for one in snapshot.blocked
    ]
    checks += [
        _check("problem", "drift", f"the host departs from the document: {one.to_json()['line']}")
        for one in snapshot.drift
    ]
    return {
        "checks": checks,
        "nat": {"ipv4": _behaviour(four, filtering), "ipv6": _behaviour(six, "unknown")},
        "nat64": list(snapshot.nat64),
        "hairpin": hairpin,
        "allocation": nat.allocation_json(snapshot.allocation),
        "relay_tls": udp.to_json(snapshot.relay_tls, snapshot.now_s, blocked=snapshot.udp_blocked),
        "port_mapping": port_mapping_json(snapshot.port_mapping),
    }


def _behaviour(seen: Behaviour, filtering: Filtering4787) -> dict[str, Any]:
    return {
        "udp": seen.udp,
        "mapping": seen.mapping,
        "address_dependence_known": seen.address_dependence_known,
        "port_kept": seen.port_kept,
        "mapped": [str(address) for address in seen.mapped],
        "filtering": filtering,
    }
