"""Print findings about a document together with the lines concerned."""

from __future__ import annotations

from netctl.cli import output
from netctl.model.errors import Finding


def show_findings(findings: tuple[Finding, ...], text: str) -> None:
    """Print each finding, its line of the document, and a caret under its column."""
    from netctl.config.load.render import excerpt

    for finding in findings:
        (output.warning if finding.severity == "warning" else output.error)(_sentence(finding))
        for shown in excerpt(finding, text):
            output.note(shown)


def _sentence(finding: Finding) -> str:
    where = f"{finding.mark}: " if finding.mark else ""
    hint = f" ({finding.hint})" if finding.hint else ""
    return f"{where}{finding.code} {finding.path}: {finding.message}{hint}"
