"""`netctl validate`: print every fault of a document."""

from __future__ import annotations

import argparse
from pathlib import Path

from netctl.agent.storage.locations import Locations, read_document
from netctl.cli import output
from netctl.cli.exits import CONVERGED, FAILED
from netctl.cli.findings import show_findings
from netctl.cli.options import add_files, add_output
from netctl.model.errors import ConfigError


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_files(parser)
    add_output(parser, "github")


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Validate each document. Returns the worst exit status."""
    return max(_validate(path, arguments.output) for path in arguments.files or [locations.config])


def _validate(path: Path, form: str) -> int:
    """Print every fault of a document. Returns the exit status."""
    from netctl.config import load_document
    from netctl.config.load.render import to_github, to_json

    text = read_document(path)
    document = None
    try:
        loaded = load_document(text, str(path))
        document, findings = loaded.document, loaded.warnings
    except ConfigError as error:
        findings = error.findings
    if form == "json":
        output.json({"valid": document is not None, "findings": [to_json(finding) for finding in findings]})
    elif form == "github":
        for finding in findings:
            output.line(to_github(finding))
    else:
        show_findings(findings, text)
        if document is not None:
            members, networks = len(document.members), len(document.networks)
            counts = f"{output.counted(members, 'member')}, {output.counted(networks, 'network')}"
            output.line(f"{path} is valid: {counts}")
        else:
            errors = sum(finding.severity == "error" for finding in findings)
            output.note(f"{path} is not valid: {output.counted(errors, 'error')}")
    return CONVERGED if document is not None else FAILED
