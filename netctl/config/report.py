"""Collects findings, each with its place in the text."""

from __future__ import annotations

from dataclasses import dataclass, field

from netctl.config.loader import MAX_FINDINGS, Path, Source, format_path
from netctl.model.errors import Finding


@dataclass(slots=True)
class Report:
    """Findings about one source, in the order found."""

    source: Source
    findings: list[Finding] = field(default_factory=list)

    def error(self, code: str, path: Path, message: str, hint: str = "") -> None:
        """Something that makes the document unusable."""
        self._add(code, path, message, hint, "error")

    def warning(self, code: str, path: Path, message: str, hint: str = "") -> None:
        """Something that works and that a person should know."""
        self._add(code, path, message, hint, "warning")

    def _add(self, code: str, path: Path, message: str, hint: str, severity: str) -> None:
        if len(self.findings) < MAX_FINDINGS:
            mark = self.source.mark(path)
            self.findings.append(Finding(code, format_path(path), message, mark, hint, severity))

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Only what is an error."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Only what is a warning."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")
