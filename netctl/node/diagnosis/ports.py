"""The `doctor` and `why` texts about the port that the router maps to this host."""

from __future__ import annotations

from typing import Any

from netctl.paths.behaviour import Behaviour
from netctl.paths.portmap import MapState, MapStatus

ADVICE = "switch on PCP, NAT-PMP or UPnP in the router, or forward a UDP port and name it in `endpoints:`"


def port_mapping(status: MapStatus, seen: Behaviour) -> list[dict[str, Any]]:
    """The check of the port mapping. `seen`: this host's external IPv4 address and port by the mediator's STUN
    servers.
    """
    if status.state is MapState.OFF:
        return []
    mapping = status.mapping
    if mapping is not None:
        text = (
            f"your router speaks {mapping.protocol}: "
            f"port {mapping.internal_port} is open as {mapping.external}"
        )
        outside = {address.host for address in seen.mapped}
        if outside and mapping.external.host not in outside:
            text += f"; the internet sees {', '.join(sorted(outside))}: another NAT stands before the router"
            return [_check("note", text, "ask the provider for an address of your own, or use IPv6")]
        return [_check("ok", text, None)]
    if status.state is MapState.ASKING:
        return [_check("note", "your router is being asked to open a port", None)]
    reasons = ", ".join(f"{name}: {reason}" for name, reason in status.refused)
    return [_check("note", f"your router opens no port for this host ({reasons})", ADVICE)]


def port_mapping_json(status: MapStatus) -> dict[str, Any]:
    """The port mapping for programs."""
    mapping = status.mapping
    return {
        "state": status.state.value,
        "gateway": str(status.gateway.router) if status.gateway is not None else None,
        "protocol": mapping.protocol if mapping is not None else None,
        "external": str(mapping.external) if mapping is not None else None,
        "port": mapping.internal_port if mapping is not None else None,
        "expires_in_s": round(status.expires_in_s) if status.expires_in_s is not None else None,
        "refused": dict(status.refused),
    }


def _check(level: str, text: str, advice: str | None) -> dict[str, Any]:
    return {"level": level, "check": "port mapping", "text": text, "advice": advice}
