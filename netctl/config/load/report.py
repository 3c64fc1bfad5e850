"""Collects findings with their places in the text, and suppresses those that only follow from an earlier one."""

from __future__ import annotations

from dataclasses import dataclass, field

from netctl.config.load.loader import MAX_FINDINGS, Origin, Path, format_path
from netctl.model.errors import Finding

FOLLOWS_FROM_MEMBERS = frozenset({"NC202", "NC204", "NC412", "NC505"})
"""Codes about groups and memberships: unreliable while a part of some member could not be read."""
FOLLOWS_FROM_MEDIATORS = frozenset({"NC413", "NC509", "NC510", "NC511"})
FOLLOWS_FROM_POOLS = frozenset({"NC402", "NC409"})


@dataclass(slots=True)
class Report:
    """Findings about one source.

    The report remembers every wrong part, and suppresses further findings about that part, about the parts that
    contain it, and findings that only follow from it.
    """

    source: Origin
    findings: list[Finding] = field(init=False)
    broken: set[Path] = field(default_factory=set)
    """Every path with an error, and all its parents."""
    roots: set[Path] = field(default_factory=set)
    """The paths with an error."""
    blind: set[str] = field(default_factory=set)
    """Codes of findings that only follow from a broken part."""
    _found: list[Path] = field(init=False)
    _said: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.findings = list(self.source.findings)
        self._found = list(self.source.broken)
        self.close_stage()

    def error(self, code: str, path: Path, message: str, hint: str = "") -> None:
        """Add a finding that makes the document unusable."""
        if self._silenced(code, path):
            return
        self._add(code, path, message, hint, "error")

    def warning(self, code: str, path: Path, message: str, hint: str = "") -> None:
        """Add a finding about something that works but that a person should know."""
        if not self._silenced(code, path):
            self._add(code, path, message, hint, "warning")

    def close_stage(self) -> None:
        """From now on suppress findings that only follow from those found so far."""
        for path in self._found:
            self.roots.add(path)
            self.broken.update(path[:length] for length in range(len(path) + 1))
            if path[:1] == ("members",):
                self.blind |= FOLLOWS_FROM_MEMBERS
                if len(path) <= 2:
                    self.blind.add("NC201")
            if path[:1] == ("mediators",):
                self.blind |= FOLLOWS_FROM_MEDIATORS
            if path[:1] == ("networks",) and (len(path) <= 2 or path[2] in ("ipv4", "ipv6")):
                self.blind |= FOLLOWS_FROM_POOLS
        self._found.clear()

    def _silenced(self, code: str, path: Path) -> bool:
        if not self.roots:
            return False
        if code in self.blind or (len(path) > 1 and path in self.broken):
            return True
        return any(path[:length] in self.roots for length in range(1, len(path) + 1))

    def _add(self, code: str, path: Path, message: str, hint: str, severity: str) -> None:
        if severity == "error":
            self._found.append(path)
        said = self._said.get(severity, 0)
        if said < MAX_FINDINGS:  # errors and warnings are counted apart: many warnings must not hide an error
            self._said[severity] = said + 1
            mark = self.source.mark(path)
            self.findings.append(Finding(code, format_path(path), message, mark, hint, severity))

    def sorted(self) -> tuple[Finding, ...]:
        """All findings in the order of the text."""

        def place(finding: Finding) -> tuple[int, int]:
            return (finding.mark.line, finding.mark.column) if finding.mark else (0, 0)

        return tuple(sorted(self.findings, key=place))

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Only the errors."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Only the warnings."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")
