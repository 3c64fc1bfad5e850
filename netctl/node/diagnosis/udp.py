"""The `status` and `doctor` texts where UDP is blocked and packets travel over TLS."""

from __future__ import annotations

from typing import Any

from netctl.node.snapshot import TunnelStatus


def carried(status: TunnelStatus, *, blocked: bool) -> str | None:
    """One line about the TLS connection to the relay; None: no such connection is wanted."""
    if status.state == "unwanted":
        return None
    what = "UDP is blocked" if blocked else "the relay does not answer over UDP"
    if status.state == "up":
        through = f" through the proxy {status.proxy}" if status.proxy is not None else ""
        return f"{what}: packets go over TLS to {status.at}{through} (relay-tls); UDP is tried again every minute"
    why = f": {status.error}" if status.error is not None else ""
    return f"{what}, and the relay is not reached over TLS either yet{why}"


def checks(status: TunnelStatus, *, blocked: bool) -> list[dict[str, Any]]:
    """The checks for `doctor`."""
    text = carried(status, blocked=blocked)
    if text is None:
        return []
    advice = (
        None if status.state == "up" else "let TCP out to the mediator's port, or name a proxy in HTTPS_PROXY"
    )
    level = "note" if status.state == "up" else "problem"
    return [{"level": level, "check": "relay-tls", "text": text, "advice": advice}]


def to_json(status: TunnelStatus, now_s: float, *, blocked: bool) -> dict[str, Any]:
    """The connection for programs. `now_s`: monotonic."""
    return {
        "udp_blocked": blocked,
        "state": status.state,
        "at": status.at,
        "proxy": status.proxy,
        "since_s": round(now_s - status.since, 1) if status.state != "unwanted" else None,
        "error": status.error,
        "dropped": status.dropped,
    }
