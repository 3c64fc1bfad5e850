"""Reads and writes our managed block of the hosts file. Everything outside the two marker lines stays as it is."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path

from netctl.engine import addresstext
from netctl.model.addresses import Address
from netctl.model.errors import EngineError
from netctl.model.foreign import ForeignName
from netctl.system.files import overwrite, write_atomic

BEGIN = "# netctl begin: managed, edits here are overwritten"
END = "# netctl end"
NEW_MODE = 0o644
"""The mode of a new hosts file: every program reads it."""


def _decoded(content: bytes) -> str:
    """The content as text that `_encoded` turns back into the same bytes, in any encoding."""
    return content.decode(errors="surrogateescape")


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _lines(text: str) -> list[str]:
    """The lines with their line feeds. Only a line feed ends a line, no other line separator."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _split(text: str) -> tuple[list[str], list[str], list[str]]:
    """Lines before, inside and after the block. Without an end marker the block is empty."""
    lines = _lines(text)
    bare = [line.rstrip("\r\n") for line in lines]
    if BEGIN not in bare or END not in bare[bare.index(BEGIN) :]:
        return [line for line, found in zip(lines, bare, strict=True) if found != BEGIN], [], []
    start = bare.index(BEGIN)
    end = bare.index(END, start)
    return lines[:start], lines[start + 1 : end], lines[end + 1 :]


def parse_block(text: str) -> dict[str, tuple[Address, ...]]:
    """Names and addresses inside the block; invalid lines are ignored."""
    names: dict[str, list[Address]] = {}
    for line in _split(text)[1]:
        address, *hosts = line.split() or [""]
        with contextlib.suppress(ValueError):
            parsed = addresstext.address(address)
            for host in hosts:
                names.setdefault(host, []).append(parsed)
    return {host: tuple(addresses) for host, addresses in names.items()}


def replace_block(text: str, names: Mapping[str, tuple[Address, ...]]) -> str:
    """The file's text with the block set to `names`; an empty mapping removes it."""
    before, _, after = _split(text)
    block = [
        f"{addresstext.print_address(address)}\t{host}\n"
        for host, addresses in sorted(names.items())
        for address in addresses
    ]
    if block and before and not before[-1].endswith("\n"):
        before[-1] += "\n"  # otherwise our first line would continue theirs
    middle = [f"{BEGIN}\n", *block, f"{END}\n"] if block else []
    return "".join((*before, *middle, *after))


def foreign_names(text: str, domain: str) -> tuple[ForeignName, ...]:
    """Names below our domain on lines outside our block."""
    before, block, after = _split(text)
    skipped = len(block) + 2 if len(before) + len(after) < len(_lines(text)) else 0
    numbered = [*enumerate(before, 1), *enumerate(after, len(before) + skipped + 1)]
    found = []
    for number, line in numbered:
        address, *hosts = line.partition("#")[0].split() or [""]
        with contextlib.suppress(ValueError):
            parsed = ipaddress.ip_address(address)
            found += [ForeignName(host, parsed, number) for host in hosts if host.endswith(f".{domain}")]
    return tuple(found)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2s(content).digest()


class HostsFile:
    """The system's hosts file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: tuple[bytes, Mapping[str, tuple[Address, ...]]] | None = None
        """Digest of the file when it was read or written last, and the names in our block then."""
        self._strangers: tuple[bytes, str, tuple[ForeignName, ...]] | None = None
        """Digest of the file when it was last searched, the domain, and the names found."""

    def read(self) -> Mapping[str, tuple[Address, ...]]:
        """The names in our block; the same object while the file is unchanged. Raises EngineError."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise EngineError(f"cannot read {self.path}: {error.strerror}") from error
        digest = _digest(content)
        if self._known is None or self._known[0] != digest:
            self._known = digest, parse_block(_decoded(content))
        return self._known[1]

    def foreign(self, domain: str) -> tuple[ForeignName, ...]:
        """Names below our domain outside our block; none where the file cannot be read."""
        try:
            content = self.path.read_bytes()
        except OSError:
            return ()
        asked = _digest(content), domain
        if self._strangers is None or self._strangers[:2] != asked:
            self._strangers = *asked, foreign_names(_decoded(content), domain)
        return self._strangers[2]

    def write(self, names: Mapping[str, tuple[Address, ...]]) -> None:
        """Replace our block; all other bytes stay. Raises EngineError.

        Atomic where a rename can replace the file, in place where it is a mount. A link is followed and stays a link.
        """
        try:
            place = self.path.resolve()
        except (OSError, RuntimeError) as error:  # links that lead to each other
            raise EngineError(f"cannot write {self.path}: it is a link that leads nowhere") from error
        try:
            old = place.read_bytes() if place.exists() else b""
            new = _encoded(replace_block(_decoded(old), names))
            if new != old and (self._is_mounted(place) or not self._renamed(place, new)):
                overwrite(place, new)
        except OSError as error:
            raise EngineError(f"cannot write {self.path}: {error.strerror}") from error
        self._known = _digest(new), {name: addresses for name, addresses in names.items() if addresses}

    @staticmethod
    def _is_mounted(place: Path) -> bool:
        """Whether the file itself is a mount, as in containers: a rename cannot replace it."""
        try:
            mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        except OSError:
            return os.path.ismount(place)
        # Field 5, with blanks in octal (proc(5)). Only this file shows a bind mount of the same file system.
        return str(place).replace(" ", "\\040") in {line.split()[4] for line in mounts}

    @staticmethod
    def _renamed(place: Path, content: bytes) -> bool:
        """Write a new file and rename it; False, with no file left behind, where that is impossible."""
        try:
            about = place.stat() if place.exists() else None
            mode = about.st_mode & 0o777 if about is not None else NEW_MODE
            write_atomic(place, content, mode, (about.st_uid, about.st_gid) if about is not None else None)
        except OSError:
            return False
        return True
