"""Sets kernel parameters, and keeps their original values to restore them."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

from netctl.engine.records import keep, kept
from netctl.model.errors import EngineError
from netctl.system.files import write_kernel

PROC_SYS = Path("/proc/sys")
FORWARDING = "net/ipv6/conf/all/forwarding"
"""The parameter that makes the host a router. A link with `accept_ra` 1 then accepts no router advertisements any more,
and the kernel drops the default route that came by one at once (kernel: Documentation/networking/ip-sysctl.rst). A
link with `accept_ra` 2 still accepts them."""
_CONF6 = "net/ipv6/conf"
_LINK = re.compile(r"(conf|neigh)/[^/]+/")
"""The link in a parameter's key: a new link begins with the value of `default`."""


class Sysctls:
    """The parameters that we set. Keys are paths below /proc/sys (``net/ipv4/ip_forward``). `saved`: the file with the
    original values of global keys.
    """

    def __init__(self, saved: Path, root: Path = PROC_SYS) -> None:
        self._saved = saved
        self._root = root

    def _originals(self) -> dict[str, str]:
        try:
            loaded: dict[str, str] = json.loads(kept(self._saved))
        except (OSError, ValueError):
            return {}
        return loaded

    def _value(self, key: str) -> str | None:
        try:
            return (self._root / key).read_text().strip()
        except OSError:
            return None

    def read(self, segments: frozenset[str]) -> dict[str, str]:
        """Values of the keys that we have set: the saved keys, and those of our segments."""
        keys = {key for key in self._originals() if not _is_accept_ra(key)}
        for segment in segments:
            keys |= {f"net/ipv4/conf/{segment}/rp_filter", f"net/ipv6/conf/{segment}/addr_gen_mode"}
        values = {key: self._value(key) for key in keys}
        return {key: value for key, value in values.items() if value is not None}

    def set(self, key: str, value: str, *, link_bound: bool) -> None:
        """Write a value. The original value is saved first, unless the key belongs to a link of ours."""
        before = self._value(key)
        if before is None:
            if key.startswith("net/ipv6/"):
                return  # the host has no IPv6
            raise EngineError(f"the kernel has no parameter {key}")
        if not link_bound:
            originals = self._originals()
            listening = self._listening() if key == FORWARDING and value != "0" and before == "0" else []
            known = {**dict.fromkeys(listening, "1"), key: before, **originals}
            if known != originals:
                keep(self._saved, json.dumps(known), generations_too=True)
            for one in listening:
                self._write(one, "2")
        self._write(key, value)

    def _listening(self) -> list[str]:
        """The `accept_ra` keys of links that accept router advertisements while the host is no router."""
        try:
            links = sorted(path.name for path in (self._root / _CONF6).iterdir())
        except OSError:
            return []
        keys = [f"{_CONF6}/{link}/accept_ra" for link in links if link != "all"]
        return [key for key in keys if self._value(key) == "1"]

    def _write(self, key: str, value: str) -> None:
        if self._value(key) == value:
            return  # in a container the value may be set from outside and not be writable
        try:
            write_kernel(self._root / key, value)
        except OSError as error:
            advice = ""
            if error.errno == errno.EROFS:
                option = _LINK.sub(r"\1/default/", key).replace("/", ".")
                advice = f"; in a container, start it with --sysctl {option}={value}"
            raise EngineError(f"cannot set {key} to {value}: {error.strerror}{advice}") from error

    def restore(self, key: str) -> None:
        """Restore the original value of a saved key, and forget it."""
        originals = self._originals()
        if key in originals:
            self._write(key, originals.pop(key))
            for one in [one for one in originals if _is_accept_ra(one)] if key == FORWARDING else []:
                before = originals.pop(one)
                if self._value(one) == "2":  # otherwise somebody has changed it, or the link is gone
                    self._write(one, before)
            keep(self._saved, json.dumps(originals), generations_too=True)


def _is_accept_ra(key: str) -> bool:
    return key.startswith(_CONF6) and key.endswith("/accept_ra")
