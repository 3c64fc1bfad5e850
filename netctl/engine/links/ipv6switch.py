"""IPv6 where a host has it switched off: on again for our own links, which alone are ours to change.

`net.ipv6.conf.all.disable_ipv6=1` switches it off on every link there is, `default` on those that come; an address or
a route is then refused with EACCES. A link can have it all the same. Where the kernel has no IPv6 at all
(`ipv6.disable=1`) or its parameters cannot be written (in a container), it is said why.
"""

from __future__ import annotations

import os
from pathlib import Path

from netctl.model.errors import EngineError
from netctl.system.files import write_kernel

CONF = Path("/proc/sys/net/ipv6/conf")


def allow(link: str, conf: Path = CONF) -> bool:
    """Let a link of ours have IPv6; whether that had to be changed. Raises EngineError where it cannot be."""
    switch = conf / link / "disable_ipv6"
    try:
        if switch.read_text().strip() == "0":
            return False
    except OSError:
        return False  # no IPv6 in this kernel, or the link's MTU is below IPv6's least: the kernel says it better
    try:
        write_kernel(switch, "0")
    except OSError as error:
        raise EngineError(
            f"IPv6 is switched off on {link} and cannot be switched on there: {error.strerror}"
        ) from error
    return True


def why_not(links: tuple[str, ...], conf: Path = CONF) -> str:
    """Why a link of ours can have no IPv6, for people; empty: it can. `links`: those that there are already."""
    if not conf.is_dir():
        return "the kernel of this host has no IPv6"
    # One that is there counts by itself, one that comes begins as `default` says.
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
