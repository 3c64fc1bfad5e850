"""The tree of errors; the class of an error says whose fault it is.

Every error a person can meet is a `NetctlError`; its text is one clear line that says what to do.
"""

from __future__ import annotations

from dataclasses import dataclass


class NetctlError(Exception):
    """Root of the tree. `str(error)` is fit to be shown to a person as it is."""


class ConfigError(NetctlError):
    """The user's document is wrong. Carries every finding, not just the first."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        self.findings = findings
        super().__init__("\n".join(str(finding) for finding in findings))


class LocalError(NetctlError):
    """We, or this host's set-up, are at fault: a missing key, a port in use, no permission."""


class RemoteError(NetctlError):
    """The other side broke the protocol, refused us, or has another identity than expected.

    `code` is stable and machine-readable (for example ``login.unknown-key``).
    """

    def __init__(self, message: str, code: str = "remote") -> None:
        self.code = code
        super().__init__(message)


class EngineError(NetctlError):
    """The system refused: netlink, nftables, the userspace WireGuard."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a text: 1-based line and column."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about a document: an error or a warning.

    `code` is stable (``NC101``), `path` is the YAML path (``members.nas.wireguard``), `message` says what is wrong
    and what is allowed, `hint` is a near-miss suggestion or advice, or empty.
    """

    code: str
    path: str
    message: str
    mark: Mark | None = None
    hint: str = ""
    severity: str = "error"  # or "warning"

    def __str__(self) -> str:
        where = f"{self.mark}: " if self.mark else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{self.severity} {self.code} {self.path}: {self.message}{hint}"
