"""What `netctl why` says about a pair's path, from what the agent answered."""

from __future__ import annotations

from typing import Any

from netctl.cli import output

PORTS = {"sequential": ", ports counted", "block": ", random ports of a block", "random": ", random ports"}


def say_path(own: str, peer: dict[str, Any]) -> None:
    """The path, and why it is no better one. `own`: the member that this host is."""
    name = peer["name"]
    rtt = f", round trip {peer['rtt_ms']:.1f} ms" if peer["rtt_ms"] is not None else ""
    if peer["ping_ms"] is not None:
        rtt = f", a ping through it takes {peer['ping_ms']:.1f} ms"
    since = f", for {output.age(peer['since_s'])}" if peer["since_s"] is not None else ""
    at = peer["via"] or peer["endpoint"]
    output.check(peer["path"] != "none", f"path: {peer['path']}{f' at {at}' if at else ''}{rtt}{since}")
    if peer["down"]:
        output.line("     this host is down: `netctl up` starts it")
        return
    if not peer["online"]:
        asks = (
            "is it switched on?" if peer["stock"] else "is its agent running, and does it reach the mediator?"
        )
        output.line(f"     {name} is not online: {asks}")
    if peer["path"] != "none":
        last = peer["last_handshake_s"]
        heard = f"last handshake {output.age(last)} ago" if last is not None else "no handshake yet"
        output.line(f"     {heard}, {output.size(peer['rx_bytes'])} received from {name}")
    if peer["hindrance"]:
        output.line(f"     not direct: {peer['hindrance']}")
    for line in peer["tried"]:
        output.line(f"     {line}")
    output.line(f"     NAT of {own}: {_own_nat(peer['own_nat'])}")
    if peer["nat"]:
        output.line(f"     NAT of {name}: {peer['nat']}")
    if peer["port_mapping"]["external"]:
        opened = peer["port_mapping"]
        output.line(f"     this host's router keeps {opened['external']} open for it ({opened['protocol']})")
    if peer["condition"]:
        output.warning(peer["condition"])


def _own_nat(seen: dict[str, Any]) -> str:
    if seen["udp"] == "blocked":
        return "unknown: UDP is blocked"
    if seen["mapping"] == "none":
        return "none: it has a public address"
    if seen["mapping"] == "unknown":
        return "unknown"
    if seen["mapping"] == "endpoint-independent":
        return "endpoint-independent mapping"
    return f"{seen['mapping']} mapping (symmetric){PORTS.get(seen['ports'], '')}"
