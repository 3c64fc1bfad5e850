"""Order of the hosts of a roll-out: a canary, then batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from netctl.model.errors import LocalError


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a batch: a number of hosts, or a share in per cent."""

    count: int = 0
    percent: int = 0

    @classmethod
    def parse(cls, text: str) -> Size:
        """A size from ``5`` or ``25%``. Raises LocalError."""
        digits = text.removesuffix("%")
        number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 7 else 0
        if number < 1 or (text != digits and number > 100):
            raise LocalError(f"'{text}' is no size of a batch: a number of hosts (5) or a share (25%)")
        return cls(percent=number) if text != digits else cls(count=number)

    def of(self, hosts: int) -> int:
        """The size of a batch of a fleet of `hosts` hosts; at least 1."""
        return max(1, self.count or math.ceil(hosts * self.percent / 100))


def batches(hosts: Sequence[str], canary: str, size: Size) -> list[list[str]]:
    """The batches in order. `canary`: a number or share of hosts, or names with commas. Raises LocalError."""
    if not hosts:
        return []
    names = [name.strip() for name in canary.split(",") if name.strip()]
    if len(names) == 1 and (names[0].isdigit() or names[0].endswith("%")) and names[0] not in hosts:
        count = 0 if names[0] == "0" else Size.parse(names[0]).of(len(hosts))
        first = list(hosts[:count])
    else:
        unknown = [name for name in names if name not in hosts]
        if unknown:
            raise LocalError(f"no such canary: {', '.join(unknown)}; there are: {', '.join(hosts)}")
        first = names
    rest = [host for host in hosts if host not in first]
    step = size.of(len(hosts))
    return ([first] if first else []) + [rest[at : at + step] for at in range(0, len(rest), step)]
