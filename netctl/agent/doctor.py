"""What `netctl doctor` looks at on a host: the control connection, UDP, the NAT, and every pair's path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from netctl.agent import doctornat, doctorpeers
from netctl.agent.doctorports import port_mapping, port_mapping_json
from netctl.agent.doctorudp import checks as udp_checks
from netctl.agent.doctorudp import to_json as udp_json
from netctl.agent.mtu import narrow
from netctl.agent.status import status_of
from netctl.paths.behaviour import DEPENDENT, Behaviour
from netctl.paths.filtering import Filtering4787

if TYPE_CHECKING:
    from netctl.agent.agent import Agent

Level = Literal["ok", "note", "problem"]
HARD = "open hosts reach it directly; others by guessing ports, which may fail"
MAPPINGS = {
    "none": "no NAT: the mediator sees this host's own address",
    "endpoint-independent": "a NAT with endpoint-independent mapping: others can punch through it",
    "address-dependent": "a NAT with address-dependent mapping (symmetric): " + HARD,
    "address and port-dependent": "a NAT with address and port-dependent mapping (symmetric): " + HARD,
    "unknown": "mapping unknown: too few of the mediator's STUN ports have answered",
}


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


def examine(agent: Agent) -> dict[str, Any]:
    """Checks for people (level, check, text, advice), and the NAT's behaviour for programs."""
    four, six, hairpin = agent.paths.nat()
    link = agent.client.state
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
    checks += _family("IPv4", four) + _family("IPv6", six)
    filtering = agent.paths.filtering()
    if four.udp == "works":
        checks += doctornat.filtering(filtering) + doctornat.allocation(agent.paths.allocation())
    checks += udp_checks(agent.paths.relay_tls(), blocked=agent.paths.udp_blocked)
    if hairpin is not None:
        text = f"the NAT {'sends back' if hairpin else 'does not send back'} what goes to its own outside (hairpin)"
        checks.append(_check("ok", "hairpin", text))
    checks += port_mapping(agent.paths.port_mapping(), four)
    checks += doctorpeers.checks(status_of(agent))
    if (found := narrow(agent)) is not None:
        checks.append(_check("note", "mtu", *found))
    checks += [_check("problem", "condition", f"{one.peer}: {one.message}") for one in agent.state.conditions]
    checks += [
        _check("problem", "drift", f"the host departs from the document: {one.to_json()['line']}")
        for one in agent.patrol.drift
    ]
    return {
        "checks": checks,
        "nat": {"ipv4": _behaviour(four, filtering), "ipv6": _behaviour(six, "unknown")},
        "hairpin": hairpin,
        "allocation": doctornat.allocation_json(agent.paths.allocation()),
        "relay_tls": udp_json(agent.paths.relay_tls(), blocked=agent.paths.udp_blocked),
        "port_mapping": port_mapping_json(agent.paths.port_mapping()),
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
