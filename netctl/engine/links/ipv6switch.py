"""Switches IPv6 on for our own links, and only for them, on a host where it is switched off.

`net.ipv6.conf.all.disable_ipv6=1` switches IPv6 off on all present links, `default` on new ones; the kernel then
refuses addresses and routes with EACCES. A single link can still have IPv6. Where the kernel has no IPv6 at all
(`ipv6.disable=1`) or its parameters are not writable (in a container), the reason is reported.
"""

from __future__ import annotations

import os
from pathlib import Path

from netctl.model.errors import EngineError
from netctl.system.files import write_kernel

CONF = Path("/proc/sys/net/ipv6/conf")


def allow(link: str, conf: Path = CONF) -> bool:
    """Switch IPv6 on for a link of ours; returns whether it was off. Raises EngineError where that fails."""
    switch = conf / link / "disable_ipv6"
    try:
        if switch.read_text().strip() == "0":
            return False
    except OSError:
        return False  # no IPv6 in this kernel, or the link's MTU is too small for it: the kernel's own error follows
    try:
        write_kernel(switch, "0")
    except OSError as error:
        raise EngineError(
            f"IPv6 is switched off on {link} and cannot be switched on there: {error.strerror}"
        ) from error
    return True


def why_not(links: tuple[str, ...], conf: Path = CONF) -> str:
    """Why a link of ours cannot have IPv6, for people; empty: it can. `links`: names of links that may exist."""
    if not conf.is_dir():
        return "the kernel of this host has no IPv6"
    # An existing link has its own value; a new link begins with the value of `default`.
    present = [link for link in links if (conf / link).is_dir()]
    for name in present or ["default"]:
        try:
            off = (conf / name / "disable_ipv6").read_text().strip() != "0"
        except OSError:
            continue
        if off and not os.access(conf / name / "disable_ipv6", os.W_OK):
            return (
                "IPv6 is switched off on this host (net.ipv6.conf.*.disable_ipv6) and cannot be switched on"
            )
    return ""
