"""The managed block of the hosts file. Everything outside the two marker lines is left as it is."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path

from netctl.engine import texts
from netctl.model.addresses import Address
from netctl.model.errors import EngineError
from netctl.model.foreign import ForeignName
from netctl.system.files import overwrite, write_atomic

BEGIN = "# netctl begin: managed, edits here are overwritten"
END = "# netctl end"
NEW_MODE = 0o644
"""Of a hosts file where there was none: every program reads it."""


def _split(text: str) -> tuple[list[str], list[str], list[str]]:
    """Lines before, inside and after the block. Without an end marker the block is empty."""
    lines = text.splitlines()
    if BEGIN not in lines or END not in lines[lines.index(BEGIN) :]:
        return [line for line in lines if line != BEGIN], [], []
    start = lines.index(BEGIN)
    end = lines.index(END, start)
    return lines[:start], lines[start + 1 : end], lines[end + 1 :]


def parse_block(text: str) -> dict[str, tuple[Address, ...]]:
    """Names and addresses inside the block; lines that make no sense are passed over."""
    names: dict[str, list[Address]] = {}
    for line in _split(text)[1]:
        address, *hosts = line.split() or [""]
        with contextlib.suppress(ValueError):
            parsed = texts.address(address)
            for host in hosts:
                names.setdefault(host, []).append(parsed)
    return {host: tuple(addresses) for host, addresses in names.items()}


def replace_block(text: str, names: Mapping[str, tuple[Address, ...]]) -> str:
    """The file's text with the block set to `names`; an empty mapping removes it."""
    before, _, after = _split(text)
    block = [
        f"{texts.print_address(address)}\t{host}"
        for host, addresses in sorted(names.items())
        for address in addresses
    ]
    middle = [BEGIN, *block, END] if block else []
    lines = [*before, *middle, *after]
    return "\n".join(lines) + "\n" if lines else ""


def foreign_names(text: str, domain: str) -> tuple[ForeignName, ...]:
    """Names below our domain on lines that are not ours."""
    before, block, after = _split(text)
    skipped = len(block) + 2 if len(before) + len(after) < len(text.splitlines()) else 0
    numbered = [*enumerate(before, 1), *enumerate(after, len(before) + skipped + 1)]
    found = []
    for number, line in numbered:
        address, *hosts = line.partition("#")[0].split() or [""]
        with contextlib.suppress(ValueError):
            parsed = ipaddress.ip_address(address)
            found += [ForeignName(host, parsed, number) for host in hosts if host.endswith(f".{domain}")]
    return tuple(found)


class HostsFile:
    """The system's hosts file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, tuple[Address, ...]]:
        """Our names."""
        try:
            return parse_block(self.path.read_text())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise EngineError(f"cannot read {self.path}: {error.strerror}") from error

    def foreign(self, domain: str) -> tuple[ForeignName, ...]:
        """Names below our domain that somebody else gives an address; none where the file cannot be read."""
        try:
            return foreign_names(self.path.read_text(), domain)
        except (OSError, UnicodeDecodeError):
            return ()

    def write(self, names: Mapping[str, tuple[Address, ...]]) -> None:
        """Replace our block. Atomic where the file can be renamed over; in place where it is a mount."""
        try:
            old = self.path.read_text() if self.path.exists() else ""
            text = replace_block(old, names)
            if text == old:
                return
            if self._is_mounted() or not self._renamed(text):
                overwrite(self.path, text)
        except OSError as error:
            raise EngineError(f"cannot write {self.path}: {error.strerror}") from error

    def _is_mounted(self) -> bool:
        """Whether the file itself is a mount, as in containers: nothing can be renamed over it."""
        try:
            mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        except OSError:
            return os.path.ismount(self.path)
        # Field 5, with blanks in octal (proc(5)). A bind mount of the same file system is seen only here.
        return str(self.path.resolve()).replace(" ", "\\040") in {line.split()[4] for line in mounts}

    def _renamed(self, text: str) -> bool:
        """Write beside and rename over; False, with nothing left behind, where that cannot be done."""
        try:
            write_atomic(
                self.path, text, self.path.stat().st_mode & 0o777 if self.path.exists() else NEW_MODE
            )
        except OSError:
            return False
        return True
