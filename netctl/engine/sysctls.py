"""Kernel parameters, with what they were before us kept for the way back."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

from netctl.engine.records import keep, kept
from netctl.model.errors import EngineError
from netctl.system.files import write_kernel

PROC_SYS = Path("/proc/sys")
_LINK = re.compile(r"(conf|neigh)/[^/]+/")
"""A parameter of one link: a new link begins with the value of `default`."""


class Sysctls:
    """Keys are paths below /proc/sys (``net/ipv4/ip_forward``). Originals of global keys are in a file."""

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
        """Values of the keys that we have set: those saved, and those of our segments."""
        keys = set(self._originals())
        for segment in segments:
            keys |= {f"net/ipv4/conf/{segment}/rp_filter", f"net/ipv6/conf/{segment}/addr_gen_mode"}
        values = {key: self._value(key) for key in keys}
        return {key: value for key, value in values.items() if value is not None}

    def set(self, key: str, value: str, *, link_bound: bool) -> None:
        """Write a value. A key bound to a link of ours dies with it; any other is saved first."""
        before = self._value(key)
        if before is None:
            if key.startswith("net/ipv6/"):
                return  # a host without IPv6 has nothing to set
            raise EngineError(f"the kernel has no parameter {key}")
        if not link_bound:
            originals = self._originals()
            if key not in originals:
                keep(self._saved, json.dumps({**originals, key: before}), generations_too=True)
        self._write(key, value)

    def _write(self, key: str, value: str) -> None:
        if self._value(key) == value:
            return  # in a container it may be given from outside, and not writable in there
        try:
            write_kernel(self._root / key, value)
        except OSError as error:
            advice = ""
            if error.errno == errno.EROFS:
                option = _LINK.sub(r"\1/default/", key).replace("/", ".")
                advice = f"; in a container, start it with --sysctl {option}={value}"
            raise EngineError(f"cannot set {key} to {value}: {error.strerror}{advice}") from error

    def restore(self, key: str) -> None:
        """Give a saved key its old value back and forget it."""
        originals = self._originals()
        if key in originals:
            self._write(key, originals.pop(key))
            keep(self._saved, json.dumps(originals), generations_too=True)
