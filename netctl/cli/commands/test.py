"""`netctl test`: run the tests inside a document."""

from __future__ import annotations

import argparse
from pathlib import Path

from netctl.agent.storage.locations import Locations, read_document
from netctl.cli import output
from netctl.cli.findings import show_findings
from netctl.cli.options import add_files
from netctl.model.errors import ConfigError


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_files(parser)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Run the tests of each document. Returns the worst exit status."""
    return max(_test(path) for path in arguments.files or [locations.config])


def _test(path: Path) -> int:
    from netctl.config import load_document

    text = read_document(path)
    try:
        document = load_document(text, str(path)).document
    except ConfigError as error:
        show_findings(error.findings, text)
        return 1
    counts = {
        network.name: sum(len(test.accept) + len(test.deny) for test in network.tests)
        for network in document.networks.values()
        if network.tests
    }
    for name, count in counts.items():
        output.check(
            True, f"{name}: {output.counted(count, 'expectation')} {'holds' if count == 1 else 'hold'}"
        )
    if not counts:
        output.warning(f"{path} has no tests: `netctl explain networks.NAME.tests` shows how they look")
    return 0
