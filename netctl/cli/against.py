"""`netctl plan --against`: which members gain or lose reach since a Git revision of the document."""

from __future__ import annotations

import argparse

from netctl.agent.storage.locations import Locations, read_document
from netctl.cli import output
from netctl.cli.exits import CHANGES, CONVERGED
from netctl.cli.findings import show_findings
from netctl.model.errors import ConfigError, LocalError


def against(arguments: argparse.Namespace, locations: Locations) -> int:
    """Print who gains and who loses reach between a Git revision and the present file. Raises LocalError."""
    from netctl.config import load_document
    from netctl.config.reach.reachchanges import reach_changes
    from netctl.config.reach.reachtext import reach_lines, reach_to_json
    from netctl.fleet.review import text_at, to_markdown

    path = arguments.file or locations.config
    text = read_document(path)
    try:
        after = load_document(text, str(path))
    except ConfigError as error:
        show_findings(error.findings, text)
        raise LocalError(f"{path} is not valid: there is nothing to compare") from None
    old, commit = text_at(path, arguments.against)
    try:
        before = load_document(old, f"{path}@{commit}").document if old is not None else None
    except ConfigError as error:
        first = error.findings[0]
        raise LocalError(f"{path} is not valid at {commit} ({first}): name another revision") from None
    changes = reach_changes(before, after.document)
    if arguments.output == "json":
        output.json({"against": commit, **reach_to_json(changes)})
    elif arguments.output == "markdown":
        output.line(to_markdown(path.name, commit, changes, after.warnings))
    else:
        lines = reach_lines(changes)
        for line in lines:
            output.change(line)
        if not lines:
            output.line(f"Nothing changes for anybody against {commit}.")
    return CHANGES if changes and arguments.detailed_exitcode else CONVERGED
